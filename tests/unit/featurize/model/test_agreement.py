"""Which forward a backbone gets, and the verdict that is remembered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from featurize.model import agreement as agreement_module
from featurize.model.agreement import (
    Choice,
    choose_forward,
    probe_groups,
    relative_error,
    remembered_choice,
)
from featurize.model.attention import SHARED_PROMPT, shared_prompt_attention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.model.pooling import POOLINGS
from tests.support.plain_features import (
    load_tiny,
    make_groups,
)
from tests.support.tiny_models import NUM_LAYERS, PACKABLE

SPEC = FeatureSpec(layers=(0, 2, NUM_LAYERS), poolings=tuple(POOLINGS), likelihood=True)
# Prompts and outputs on both sides of the sliding window of 8.
GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8, 1, 2)), (9, (30,)), (1, (4, 4))])


@pytest.fixture
def backbone(llama: Path) -> Backbone:
    return load_tiny(llama, SPEC)


@pytest.mark.parametrize("family", PACKABLE)
def test_plainly_causal_families_are_packed(folders: Callable[[str], Path], family: str) -> None:
    choice = choose_forward(load_tiny(folders(family), SPEC), SPEC, GROUPS, torch.float32)
    assert choice.forward == "packed"
    assert "agree with the plain forward to" in choice.reason


@pytest.mark.parametrize(("family", "reason"), [("gemma2", "softcap"), ("gpt_oss", "s_aux")])
def test_soft_capping_and_sinks_are_not_packed(
    folders: Callable[[str], Path], family: str, reason: str
) -> None:
    backbone = load_tiny(folders(family), SPEC)
    choice = choose_forward(backbone, SPEC, GROUPS, torch.float32)
    assert choice.forward == "padded"
    assert reason in choice.reason


def test_in_bfloat16_the_packed_forward_is_chosen_too(llama: Path) -> None:
    spec = FeatureSpec(layers=(3,), poolings=("mean",), likelihood=False)
    backbone = load_tiny(llama, spec, torch.bfloat16)
    assert choose_forward(backbone, spec, GROUPS, torch.bfloat16).forward == "packed"


def test_an_output_that_changes_nothing_does_not_speak_against_packing(backbone: Backbone) -> None:
    """All states of one repeated token are equal, so that `delta` is their rounding alone."""
    groups = [PromptGroup(prompt=(7,) * 20, outputs=((7,) * 9, (7,) * 4), rows=(0, 1))]
    spec = FeatureSpec(layers=(2,), poolings=("mean", "delta"), likelihood=False)
    choice = choose_forward(backbone, spec, groups, torch.float32)
    assert choice.forward == "packed"


def break_attention(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Makes shared-prompt attention wrong in a way that raises nothing."""

    def broken(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        layout = options["layout"]
        if how == "blind to the prompt":
            key = key.clone()
            key[:, :, : layout.prompt_bounds[-1]] = 0
        elif how == "leaks between prompts" and len(layout.prompt_bounds) > 2:
            value = value.clone()
            value[:, :, layout.prompt_bounds[1]] += 1
        elif how == "not a number":
            value = value * float("nan")
        return shared_prompt_attention(module, query, key, value, mask, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, SHARED_PROMPT, broken)


@pytest.mark.parametrize("how", ["blind to the prompt", "leaks between prompts", "not a number"])
def test_a_packed_forward_that_disagrees_is_not_chosen(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    break_attention(monkeypatch, how)
    choice = choose_forward(backbone, SPEC, GROUPS, torch.float32)
    assert choice.forward == "padded"
    assert "differ from the plain forward by" in choice.reason


def test_a_packed_forward_that_cannot_run_is_not_chosen(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(backbone: Backbone, batch: Batch, spec: FeatureSpec) -> Features:
        raise error

    monkeypatch.setattr(agreement_module, "forward_batch", fail)
    error = RuntimeError("no such kernel\non this device")
    choice = choose_forward(backbone, SPEC, GROUPS, torch.float32)
    assert choice.forward == "padded"
    assert choice.reason.endswith(": no such kernel")
    error = torch.OutOfMemoryError("no room")
    with pytest.raises(torch.OutOfMemoryError):
        choose_forward(backbone, SPEC, GROUPS, torch.float32)


def test_a_model_that_takes_no_layout_is_padded(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = backbone.decoder.forward

    def strict(*, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> Any:
        return plain(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)

    monkeypatch.setattr(backbone.decoder, "forward", strict)
    choice = choose_forward(backbone, SPEC, GROUPS, torch.float32)
    assert choice.forward == "padded"
    assert "layout" in choice.reason


def test_a_type_error_of_ours_is_not_taken_for_a_property_of_the_model(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")

    monkeypatch.setitem(AttentionInterface._global_mapping, SHARED_PROMPT, fail)
    with pytest.raises(TypeError, match="enable_gqa"):
        choose_forward(backbone, SPEC, GROUPS, torch.float32)


def test_the_probe_has_the_longest_sequence_and_a_second_prompt() -> None:
    probe = probe_groups(GROUPS)
    # The longest sequence is 9 + 30 tokens; the group with fewest tokens beside it has 1 + 8.
    assert [group.prompt for group in probe] == [GROUPS[2].prompt, GROUPS[3].prompt]
    assert [row for group in probe for row in group.rows] == [0, 1, 2, 3]
    for group in probe:
        first, second = group.outputs
        assert len(first) != len(second)


def test_the_probe_is_small() -> None:
    groups = make_groups(
        [(10, (*range(1, 30), 39, *range(30, 39))), (12, range(1, 20)), (11, (5, 5, 5))]
    )
    probe = probe_groups(groups)
    assert [group.prompt for group in probe] == [groups[0].prompt, groups[2].prompt]
    assert [[len(output) for output in group.outputs] for group in probe] == [[39, 1], [5, 2]]
    assert len({*probe[1].outputs}) == 2
    assert [group.rows for group in probe] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("lengths", [(3, (2,)), (1, (1,)), (7, (4, 4, 4)), (2, (9, 1))])
def test_a_single_group_is_made_up_to_two_prompts_of_two_unequal_outputs(
    backbone: Backbone, lengths: tuple[int, tuple[int, ...]]
) -> None:
    groups = make_groups([lengths])
    first, second = probe_groups(groups)
    assert first.prompt == groups[0].prompt != second.prompt
    for group in (first, second):
        assert len({len(output) for output in group.outputs}) == 2
        assert len(set(group.outputs)) == 2
    known = {*groups[0].prompt, *(token for output in groups[0].outputs for token in output)}
    assert {*second.prompt, *second.outputs[0], *second.outputs[1]} <= known
    assert choose_forward(backbone, SPEC, groups, torch.float32).forward == "packed"


def test_relative_error_is_the_worst_row() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    found = expected + torch.tensor([[0.0, 0.05], [0.0, 0.05]])
    assert relative_error(found, expected) == pytest.approx(0.1)
    assert relative_error(expected, expected) == 0.0
    assert relative_error(expected * float("nan"), expected) == float("inf")
    assert relative_error(expected, expected * float("inf")) == float("inf")


def test_the_probe_keeps_what_follows_an_output() -> None:
    single = make_groups([(4, (2,))], end=(7, 8), question=(9,))
    for group in probe_groups(single):
        assert (group.num_end, group.num_question) == (2, 1)
        assert all(output[-3:] == (7, 8, 9) for output in group.outputs)
        assert min(map(len, group.outputs)) > 3


CONDITIONS: dict[str, Any] = {
    "backbone": "digest",
    "spec": FeatureSpec(layers=(1,), poolings=("mean",), likelihood=False),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
}


class Chooser:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> Choice:
        self.num_calls += 1
        return Choice(forward="padded", reason=f"call {self.num_calls}")


def test_a_backbone_is_compared_once(tmp_path: Path) -> None:
    choose = Chooser()
    first = remembered_choice(tmp_path, choose, **CONDITIONS)
    assert remembered_choice(tmp_path, choose, **CONDITIONS) == first
    assert choose.num_calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "other"},
        {"dtype": torch.bfloat16},
        {"spec": FeatureSpec(layers=(1,), poolings=("last",), likelihood=False)},
        {"spec": FeatureSpec(layers=(1,), poolings=("mean",), likelihood=True)},
    ],
)
def test_another_backbone_format_or_feature_is_compared_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    remembered_choice(tmp_path, choose, **CONDITIONS | change)
    assert choose.num_calls == 2


@pytest.mark.parametrize("content", ["", "{}", '{"forward": "packed"}', "[]"])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert remembered_choice(tmp_path, choose, **CONDITIONS).reason == "call 2"
    assert json.loads(path.read_text())["reason"] == "call 2"


def test_a_verdict_of_other_libraries_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = Chooser()
    remembered_choice(tmp_path, choose, **CONDITIONS)
    monkeypatch.setattr("featurize.model.agreement.version", lambda name: "99")
    remembered_choice(tmp_path, choose, **CONDITIONS)
    assert choose.num_calls == 2


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    choice = remembered_choice(tmp_path / "file" / "folder", Chooser(), **CONDITIONS)
    assert choice.forward == "padded"
