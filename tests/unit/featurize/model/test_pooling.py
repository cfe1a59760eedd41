"""Poolings of small numbers whose result is known."""

from typing import get_args

import pytest
import torch

from featurize.model.pooling import POOLINGS
from featurize.settings import FeaturizeSettings, Pooling
from tests.support.output_states import make_states

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
def test_numbers_outside_the_runs_have_no_effect(pooling):
    hidden = HIDDEN.clone()
    hidden[0] = float("nan")
    starts, lengths = STARTS[:2], LENGTHS[:2]
    expected = POOLINGS[pooling](make_states(HIDDEN, starts, lengths))
    assert torch.equal(POOLINGS[pooling](make_states(hidden, starts, lengths)), expected)


@pytest.mark.parametrize("pooling", OF_OUTPUTS)
def test_a_nan_affects_only_its_own_row(pooling):
    hidden = HIDDEN.clone()
    hidden[3, 1] = float("nan")
    pooled = POOLINGS[pooling](make_states(hidden, STARTS, LENGTHS))
    assert pooled.isnan().tolist() == [[False, True], [False, False], [False, False]]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sixteen_bit_states_are_pooled_in_float32(pooling):
    hidden = torch.randn(600, 3).to(torch.bfloat16)
    starts, lengths = torch.tensor([0, 300]), torch.tensor([300, 300])
    pooled = POOLINGS[pooling](make_states(hidden, starts, lengths))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(
        pooled, POOLINGS[pooling](make_states(hidden.float(), starts, lengths))
    )


def test_the_spread_of_numbers_far_from_zero_is_not_lost():
    hidden = 1e4 + torch.tensor([0.0, 1.0]).repeat(50)[:, None]
    pooled = POOLINGS["std"](make_states(hidden, torch.tensor([0]), torch.tensor([100])))
    torch.testing.assert_close(pooled, torch.tensor([[0.5]]))
