"""Poolings of small numbers whose result is known, and segments of the plain forward's states."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurize.model.engine import Engine, Forward
from featurize.model.forward import FeatureSpec
from featurize.model.pooling import POOLINGS, segment_ends
from featurize.settings import FeaturizeSettings, Pooling
from featurize.store.shards import SEGMENT_LOGPROB, SEGMENT_TOKENS
from tests.support.output_states import make_states
from tests.support.plain_features import (
    count_rows,
    largest_error,
    load_plain,
    load_tiny,
    make_groups,
    plain_features,
)
from tests.support.tiny_models import NUM_LAYERS

HIDDEN = torch.tensor([[9.0, -9.0], [1.0, -1.0], [3.0, -3.0], [5.0, -8.0], [2.0, 2.0]])
STARTS, LENGTHS = torch.tensor([1, 4, 0]), torch.tensor([3, 1, 2])
OF_OUTPUTS = ["mean", "last", "max", "std"]
"""Poolings that read the tokens of the output alone."""


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[3.0, -4.0], [2.0, 2.0], [5.0, -5.0]]),
        ("last", [[5.0, -8.0], [2.0, 2.0], [1.0, -1.0]]),
        ("max", [[5.0, -1.0], [2.0, 2.0], [9.0, -1.0]]),
        ("first", [[9.0, -9.0], [5.0, -8.0], [2.0, 2.0]]),
        ("delta", [[-4.0, 1.0], [-3.0, 10.0], [-1.0, -3.0]]),
        ("std", [[(8 / 3) ** 0.5, (26 / 3) ** 0.5], [0.0, 0.0], [4.0, 4.0]]),
    ],
)
def test_rows_are_pooled_over_their_own_tokens(pooling, expected):
    pooled = POOLINGS[pooling](make_states(HIDDEN, STARTS, LENGTHS))
    torch.testing.assert_close(pooled, torch.tensor(expected))


def test_the_settings_accept_the_poolings_of_the_registry_and_no_other():
    assert tuple(POOLINGS) == get_args(Pooling)
    with pytest.raises(ValueError, match="median"):
        FeaturizeSettings(poolings=("median",))


def test_one_token_has_no_spread_and_is_itself_otherwise():
    hidden = torch.randn(7, 5) * 1e4
    starts, lengths = torch.arange(7), torch.ones(7, dtype=torch.int64)
    assert torch.equal(POOLINGS["std"](make_states(hidden, starts, lengths)), torch.zeros(7, 5))
    for pooling in ("mean", "last", "max"):
        assert torch.equal(POOLINGS[pooling](make_states(hidden, starts, lengths)), hidden)


@pytest.mark.parametrize("pooling", OF_OUTPUTS)
def test_a_nan_affects_only_its_own_row(pooling):
    hidden = HIDDEN.clone()
    hidden[3, 1] = float("nan")
    pooled = POOLINGS[pooling](make_states(hidden, STARTS, LENGTHS))
    assert pooled.isnan().tolist() == [[False, True], [False, False], [False, False]]


def test_the_spread_of_numbers_far_from_zero_is_not_lost():
    hidden = 1e4 + torch.tensor([0.0, 1.0]).repeat(50)[:, None]
    pooled = POOLINGS["std"](make_states(hidden, torch.tensor([0]), torch.tensor([100])))
    torch.testing.assert_close(pooled, torch.tensor([[0.5]]))


NUM_SEGMENTS = 4
SPEC = FeatureSpec(
    layers=(1, NUM_LAYERS), poolings=("mean",), likelihood=True, segments=NUM_SEGMENTS
)
GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8, 2)), (1, (4, 30))], end=(3, 4))
FP32 = 1e-5


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize("token_budget", [40, 10_000])
def test_segments_are_means_of_the_plain_forwards_states(
    llama: Path, forward: Forward, token_budget: int
) -> None:
    expected = plain_features(load_plain(llama), GROUPS, SPEC)
    engine = Engine(load_tiny(llama, SPEC), SPEC, forward, token_budget)
    found = engine.run(GROUPS, count_rows(GROUPS))
    assert list(found.tensors) == SPEC.tensor_names
    assert largest_error(found, expected) < FP32
    tokens = found.tensors[SEGMENT_TOKENS]  # [rows, segments]
    assert torch.equal(tokens, expected.tensors[SEGMENT_TOKENS])
    assert tokens.sum(dim=1).tolist() == [1, 12, 3, 17, 8, 2, 4, 30]
    for layer in SPEC.layers:
        segments = found.tensors[f"segments.{layer}"].view(len(tokens), NUM_SEGMENTS, -1)
        assert segments[tokens == 0].eq(0).all()
        weights = tokens / tokens.sum(dim=1, keepdim=True)
        mean = (weights[:, :, None] * segments).sum(dim=1)
        torch.testing.assert_close(mean, found.tensors[f"mean.{layer}"], rtol=1e-5, atol=1e-5)
    assert found.likelihood is not None
    logprob_sum = (tokens * found.tensors[SEGMENT_LOGPROB]).sum(dim=1)
    torch.testing.assert_close(logprob_sum, found.likelihood[:, 0], rtol=1e-5, atol=1e-4)


@given(length=st.integers(1, 10_000), num_segments=st.integers(2, 64))
def test_segments_are_equal_but_for_a_token_and_the_first_is_never_empty(
    length: int, num_segments: int
) -> None:
    ends = segment_ends(torch.tensor([length]), num_segments)[0]
    tokens = ends.diff()
    assert (int(ends[0]), int(ends[-1])) == (0, length)
    assert int(tokens.max() - tokens.min()) <= 1
    assert tokens[0] >= 1
