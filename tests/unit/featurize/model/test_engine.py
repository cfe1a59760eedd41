import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from featurize.model import engine as engine_module
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch
from featurize.model.engine import Engine, Forward, Pending
from featurize.model.forward import Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, group_samples
from featurize.model.pooling import POOLINGS
from tests.support.plain_features import (
    count_rows,
    largest_error,
    load_plain,
    load_tiny,
    make_groups,
    plain_features,
)
from tests.support.tiny_models import FAMILIES, NUM_LAYERS, PACKABLE

SPEC = FeatureSpec(layers=(0, 2, NUM_LAYERS), poolings=tuple(POOLINGS), likelihood=True)
# Lengths of one, below, at and above the sliding window of 8, for prompts and outputs.
LENGTHS = [(5, (1, 12, 3)), (21, (17, 8, 1, 2)), (9, (30,)), (1, (4, 4))]
GROUPS = make_groups(LENGTHS)
TOKENS = sum(group.num_tokens for group in GROUPS)
FP32 = 1e-5

Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def llama(folders: Folders) -> Backbone:
    return load_tiny(folders("llama"), SPEC)


@pytest.fixture(scope="module")
def expected(folders: Folders) -> Features:
    return plain_features(load_plain(folders("llama")), GROUPS, SPEC)


def run(
    backbone: Backbone,
    *,
    groups: list[PromptGroup] = GROUPS,
    forward: Forward = "packed",
    token_budget: int = 100_000,
    spec: FeatureSpec = SPEC,
) -> Features:
    return Engine(backbone, spec, forward, token_budget).run(groups, count_rows(groups))


@pytest.mark.parametrize("deepest", range(NUM_LAYERS + 1))
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
def test_a_backbone_cut_to_its_deepest_layer_gives_the_same_features(
    folders: Folders, family: str, deepest: int
) -> None:
    spec = FeatureSpec(layers=(deepest,), poolings=("mean", "last"), likelihood=False)
    backbone = load_tiny(folders(family), spec)
    assert len(backbone.blocks) == max(1, deepest)
    expected = plain_features(load_plain(folders(family)), GROUPS, spec)
    for forward in ("packed", "padded"):
        assert largest_error(run(backbone, spec=spec, forward=forward), expected) <= FP32


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize("token_budget", [1, 20, 40, 64, TOKENS - 1, TOKENS, 10**9])
def test_the_token_budget_changes_nothing(
    llama: Backbone, expected: Features, forward: Forward, token_budget: int
) -> None:
    found = run(llama, forward=forward, token_budget=token_budget)
    assert largest_error(found, expected) <= FP32


def test_groups_that_are_split_give_the_same_features(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group,) = groups = make_groups([(10, (5, 6, 7, 8, 9, 10))])
    whole = run(llama, groups=groups)
    sizes = spy_batches(monkeypatch)
    parts = run(llama, groups=groups, token_budget=30)
    assert len(sizes) == 3
    assert sum(sizes) == group.num_tokens + 2 * len(group.prompt)
    assert largest_error(parts, whole) <= FP32


def test_the_order_of_groups_and_outputs_changes_nothing(
    llama: Backbone, expected: Features
) -> None:
    turned = [
        replace(group, outputs=group.outputs[::-1], rows=group.rows[::-1])
        for group in reversed(GROUPS)
    ]
    assert largest_error(run(llama, groups=turned), expected) <= FP32


def test_duplicates_of_a_sample_share_its_row(llama: Backbone, expected: Features) -> None:
    samples = [(group.prompt, output) for group in GROUPS for output in group.outputs]
    grouping = group_samples([*samples, *samples[::-1]])
    found = run(llama, groups=grouping.groups)
    assert grouping.num_rows == len(samples)
    order = [*range(len(samples)), *reversed(range(len(samples)))]
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(
            tensor[grouping.row_of_sample], expected.tensors[name][order], rtol=1e-4, atol=1e-5
        )


def test_an_output_that_begins_another_is_not_mixed_up_with_it(
    llama: Backbone, folders: Folders
) -> None:
    long = GROUPS[2].outputs[0]
    group = PromptGroup(prompt=(7, 8, 9), outputs=(long[:3], long, long[:29]), rows=(2, 0, 1))
    expected = plain_features(load_plain(folders("llama")), [group], SPEC)
    assert largest_error(run(llama, groups=[group]), expected) <= FP32


def test_no_groups_give_no_rows(llama: Backbone) -> None:
    found = run(llama, groups=[])
    assert {tensor.shape for tensor in found.tensors.values()} == {(0, llama.hidden_size)}
    assert found.likelihood is not None
    assert found.likelihood.shape == (0, 4)


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize("token_budget", [1, 40, 10**6])
def test_progress_counts_every_token_of_a_shared_prompt_once(
    llama: Backbone, forward: Forward, token_budget: int
) -> None:
    counted: list[int] = []
    Engine(llama, SPEC, forward, token_budget).run(GROUPS, count_rows(GROUPS), counted.append)
    assert sum(counted) == TOKENS
    assert len(counted) == 1 or token_budget < 10**6


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_in_bfloat16_packing_costs_no_more_than_batching_does(
    folders: Folders, family: str
) -> None:
    spec = FeatureSpec(layers=(2, 3), poolings=("mean", "last"), likelihood=False)
    backbone = load_tiny(folders(family), spec, torch.bfloat16)
    groups = make_groups([(20, (30, 12, 25, 9)), (33, (14, 28)), (11, (40, 8, 8))])
    alone = run(backbone, groups=groups, spec=spec, forward="padded", token_budget=1)
    batched = run(backbone, groups=groups, spec=spec, forward="padded")
    packed = run(backbone, groups=groups, spec=spec)
    assert largest_error(packed, alone) <= 2 * largest_error(batched, alone)
    exact = plain_features(load_plain(folders(family)), groups, spec)
    assert largest_error(packed, exact) <= 2 * largest_error(batched, exact)


# Several works at once

PARTS = ([GROUPS[0], GROUPS[1]], [GROUPS[2]], [], [GROUPS[3]])


def renumber(groups: list[PromptGroup]) -> list[PromptGroup]:
    """Number the rows of some groups from 0."""
    renumbered, row = [], 0
    for group in groups:
        rows = tuple(range(row, row + len(group.outputs)))
        renumbered.append(replace(group, rows=rows))
        row += len(rows)
    return renumbered


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("token_budget", [40, 400])
def test_works_come_out_in_turn_however_many_batches_are_on_the_device(
    llama: Backbone, expected: Features, depth: int, token_budget: int
) -> None:
    engine = Engine(llama, SPEC, "packed", token_budget, depth=depth)
    works = [engine.prepare(renumber(part), count_rows(part)) for part in PARTS]
    found = list(engine.stream(iter(works)))
    assert [len(features.tensors["mean.0"]) for features in found] == list(map(count_rows, PARTS))
    for name, tensor in expected.tensors.items():
        joined = torch.cat([features.tensors[name] for features in found])
        torch.testing.assert_close(joined, tensor, rtol=1e-4, atol=1e-5)


def test_a_batch_is_started_before_the_last_one_is_read(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    plain = Pending.wait

    def start(backbone: Backbone, batch: Batch, spec: FeatureSpec) -> Features:
        events.append("start")
        return forward_batch(backbone, batch, spec)

    def wait(pending: Pending) -> Features:
        events.append("read")
        return plain(pending)

    monkeypatch.setattr(engine_module, "forward_batch", start)
    monkeypatch.setattr(Pending, "wait", wait)
    engine = Engine(llama, SPEC, "packed", 60, depth=2)
    works = [engine.prepare(renumber(part), count_rows(part)) for part in PARTS if part]
    list(engine.stream(works))
    num_batches = events.count("start")
    assert num_batches > 2
    assert events == ["start", *["start", "read"] * (num_batches - 1), "read"]


def test_a_work_planned_before_memory_ran_out_is_replanned(
    llama: Backbone, expected: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(llama, SPEC, "packed", 400, depth=2)
    works = [engine.prepare(GROUPS, count_rows(GROUPS)) for _ in range(2)]
    sizes = spy_batches(monkeypatch, largest=60, error=torch.OutOfMemoryError("no room"))
    found = list(engine.stream(works))
    assert max(sizes) <= 60
    for features in found:
        assert largest_error(features, expected) <= FP32


def test_the_largest_batch_runs_first(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = spy_batches(monkeypatch)
    run(llama, token_budget=50)
    assert len(sizes) > 2
    assert sizes == sorted(sizes, reverse=True)


# Out of memory


CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory:"
    " you tried to allocate 8000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def spy_batches(
    monkeypatch: pytest.MonkeyPatch, largest: int = 10**9, error: Exception | None = None
) -> list[int]:
    """Tokens of each batch that ran; one above `largest` raises `error` instead."""
    sizes: list[int] = []

    def forward(backbone: Backbone, batch: Batch, spec: FeatureSpec) -> Features:
        if batch.num_tokens > largest:
            assert error is not None
            raise error
        sizes.append(batch.num_tokens)
        return forward_batch(backbone, batch, spec)

    monkeypatch.setattr(engine_module, "forward_batch", forward)
    return sizes


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(CPU_MESSAGE),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_halves_the_budget_and_the_rest_is_exact(
    llama: Backbone,
    expected: Features,
    forward: Forward,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes = spy_batches(monkeypatch, largest=60, error=error)
    engine = Engine(llama, SPEC, forward, 400)
    counted: list[int] = []
    with caplog.at_level(logging.WARNING, logger="featurize"):
        found = engine.run(GROUPS, count_rows(GROUPS), counted.append)
    assert largest_error(found, expected) <= FP32
    assert max(sizes) <= 60
    assert sum(counted) == TOKENS
    budgets = [record.args for record in caplog.records]
    assert budgets == [(200,), (100,), (50,)][: len(budgets)]
    assert engine.token_budget == 400 // 2 ** len(budgets) < 400
    assert "featurize.token_budget" in caplog.text


def test_batches_that_are_done_are_not_run_again_after_an_error(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_groups([(4, (6,))] * 5 + [(20, (9, 9))])
    sizes = spy_batches(monkeypatch, largest=30, error=torch.OutOfMemoryError("no room"))
    run(llama, groups=groups, token_budget=40)
    # 50 tokens in the five small groups; the large one in two pieces of 29.
    assert sum(sizes) == 5 * 10 + 2 * 29


def test_a_shared_backbone_says_which_budget_did_not_fit_and_keeps_it(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy_batches(monkeypatch, largest=60, error=torch.OutOfMemoryError("no room"))
    engine = Engine(llama, SPEC, "packed", 400, may_halve=False)
    with pytest.raises(ValueError, match=r"featurize\.token_budget 400.* set it to 200"):
        engine.run(GROUPS, count_rows(GROUPS))
    assert engine.token_budget == 400


def test_a_single_sequence_that_does_not_fit_is_an_error(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy_batches(monkeypatch, largest=38, error=torch.OutOfMemoryError("no room"))
    for forward in ("packed", "padded"):
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            run(llama, forward=forward)  # one has 39 tokens


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spy_batches(monkeypatch, largest=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(llama)
    assert not caplog.records


ASKED = make_groups(LENGTHS, end=(7, 8), question=(9, 10, 11))
ASKED_SPEC = replace(SPEC, poolings=tuple(POOLINGS), question=True, answers=(20, 30))


@pytest.mark.parametrize(
    ("family", "forward"),
    [*((family, "packed") for family in PACKABLE), *((family, "padded") for family in FAMILIES)],
)
def test_ends_and_questions_have_the_features_of_the_plain_forward(
    folders: Folders, family: str, forward: Forward
) -> None:
    expected = plain_features(load_plain(folders(family)), ASKED, ASKED_SPEC)
    backbone = load_tiny(folders(family), ASKED_SPEC)
    found = run(backbone, groups=ASKED, spec=ASKED_SPEC, forward=forward, token_budget=150)
    assert list(found.tensors) == ASKED_SPEC.tensor_names
    assert ASKED_SPEC.columns[4:] == ("yes_logprob", "no_logprob")
    assert largest_error(found, expected) <= FP32


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_a_question_leaves_the_features_of_the_outputs_as_they_are(
    llama: Backbone, expected: Features, forward: Forward
) -> None:
    question = (9, 10, 11)
    asked = [
        replace(group, outputs=tuple(o + question for o in group.outputs), num_question=3)
        for group in GROUPS
    ]
    spec = replace(SPEC, question=True, answers=(20, 30))
    found = run(llama, groups=asked, spec=spec, forward=forward)
    assert found.likelihood is not None
    own = Features(
        tensors={name: found.tensors[name] for name in SPEC.tensor_names},
        likelihood=found.likelihood[:, :4],
    )
    assert largest_error(own, expected) <= FP32
