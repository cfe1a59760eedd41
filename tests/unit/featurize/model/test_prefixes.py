"""Rows of prefixes: one forward pass over whole outputs gives what each prefix alone would."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack
from featurize.model.engine import Engine, Forward
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import (
    PrefixGrouping,
    PromptGroup,
    group_prefixes,
    group_samples,
)
from featurize.model.pooling import POOLINGS, OutputStates
from tests.support.loaded_backbones import CPU
from tests.support.output_states import make_states
from tests.support.plain_features import largest_error, load_plain, load_tiny, plain_features
from tests.support.tiny_models import NUM_LAYERS

SPEC = FeatureSpec(layers=(0, 1, NUM_LAYERS), poolings=tuple(POOLINGS), likelihood=True, segments=3)

Ids = tuple[int, ...]
Wanted = tuple[Ids, Ids, tuple[int, ...]]
"""A prompt, an output, and the lengths of its prefixes."""


@pytest.fixture(scope="module")
def backbone(llama: Path) -> Backbone:
    return load_tiny(llama, SPEC)


@st.composite
def wanted(draw: st.DrawFn) -> Wanted:
    # Not those of the prompts: (5,) answered by (5,) has a delta of zero, and no relative error.
    ids = st.integers(12, 299)
    prompt = draw(st.sampled_from([(5,), (7, 8, 9), (7, 8, 9, 10, 11)]))
    output = draw(st.lists(ids, min_size=1, max_size=20))
    lengths = draw(st.sets(st.integers(1, len(output)), max_size=6)) | {len(output)}
    return prompt, tuple(output), tuple(sorted(lengths))


def features_of(
    backbone: Backbone, samples: Sequence[Wanted], forward: Forward, token_budget: int = 10_000
) -> tuple[Features, PrefixGrouping]:
    grouping = group_prefixes(
        group_samples((prompt, output) for prompt, output, _ in samples),
        [lengths for _, _, lengths in samples],
    )
    engine = Engine(backbone, SPEC, forward, token_budget)
    return engine.run(grouping.groups, grouping.num_rows), grouping


def take(features: Features, rows: Sequence[int]) -> Features:
    assert features.likelihood is not None
    return Features(
        tensors={name: tensor[list(rows)] for name, tensor in features.tensors.items()},
        likelihood=features.likelihood[list(rows)],
    )


@settings(deadline=None, max_examples=30)
@given(
    samples=st.lists(wanted(), min_size=1, max_size=5),
    forward=st.sampled_from(["packed", "padded"]),
    token_budget=st.sampled_from([24, 10_000]),
)
def test_each_prefix_has_the_features_it_has_alone(
    llama: Path, backbone: Backbone, samples: list[Wanted], forward: Forward, token_budget: int
) -> None:
    features, grouping = features_of(backbone, samples, forward, token_budget)
    alone = [
        PromptGroup(prompt=prompt, outputs=(output[:length],), rows=(row,))
        for (prompt, output, lengths), rows in zip(samples, grouping.rows, strict=True)
        for length, row in zip(lengths, rows.tolist(), strict=True)
    ]
    expected = plain_features(load_plain(llama), alone, SPEC)
    assert sorted({group.rows[0] for group in alone}) == list(range(grouping.num_rows))
    assert largest_error(features, expected) < 1e-4


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_a_whole_output_has_its_usual_features_to_the_last_bit(
    backbone: Backbone, forward: Forward
) -> None:
    samples = [((7, 8, 9), tuple(range(20, 60)), (1, 9, 40)), ((7, 8, 9), (5, 6), (1, 2))]
    features, grouping = features_of(backbone, samples, forward)
    plain = group_samples((prompt, output) for prompt, output, _ in samples)
    usual = Engine(backbone, SPEC, forward, 10_000).run(plain.groups, plain.num_rows)
    wholes = take(features, [int(rows[-1]) for rows in grouping.rows])
    assert largest_error(wholes, usual) == 0


def test_samples_of_one_output_may_want_different_prefixes() -> None:
    samples = [((1,), (2, 3, 4)), ((1,), (5,)), ((1,), (2, 3, 4))]
    grouping = group_prefixes(group_samples(samples), [(1, 3), (1,), (2, 3)])
    assert [group.prefixes for group in grouping.groups] == [((1, 2, 3), (1,))]
    assert [rows.tolist() for rows in grouping.rows] == [[0, 2], [3], [1, 2]]
    assert grouping.num_rows == 4


def test_a_group_in_parts_keeps_the_prefixes_of_each_output() -> None:
    whole = PromptGroup(
        prompt=(1,), outputs=((2,), (3, 4), (5, 6)), rows=(0, 1, 3), prefixes=((1,), (1, 2), (2,))
    )
    part = whole.take([2, 1])
    assert (part.outputs, part.rows) == (((5, 6), (3, 4)), (3, 1))
    assert part.prefixes == ((2,), (1, 2))
    assert replace(whole, prefixes=()).take([0]).prefixes == ()


def test_without_samples_there_are_no_rows() -> None:
    assert group_prefixes(group_samples([]), []).num_rows == 0


def test_deviations_of_large_states_do_not_cancel() -> None:
    """States of 10,000 that differ by 1, far from the prompt's."""
    group = PromptGroup(
        prompt=(1, 2), outputs=(tuple(range(3, 9)),), rows=(0,), prefixes=((1, 3, 6),)
    )
    batch = make_pack([group], CPU)
    hidden = 1e4 + torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    hidden[:2] = 0.0
    start = torch.tensor([2])
    found = POOLINGS["std"](OutputStates.of(hidden[None], batch))
    each = [POOLINGS["std"](make_states(hidden, start, torch.tensor([n]))) for n in (1, 3, 6)]
    torch.testing.assert_close(found, torch.cat(each), rtol=1e-3, atol=1e-6)
    assert found[0].eq(0).all()
