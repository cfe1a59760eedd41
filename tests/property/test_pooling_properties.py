"""Poolings of any runs of tokens agree with a loop over the rows."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.model.pooling import POOLINGS
from tests.support.output_states import make_states

NAIVE = {
    "mean": lambda before, tokens: tokens.mean(0),
    "last": lambda before, tokens: tokens[-1],
    "max": lambda before, tokens: tokens.amax(0),
    "std": lambda before, tokens: tokens.std(0, correction=0),
    "first": lambda before, tokens: before,
    "delta": lambda before, tokens: tokens[-1] - before,
}


@settings(deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=10),
    width=st.integers(1, 5),
    pooling=st.sampled_from(tuple(POOLINGS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_pooling_equals_a_loop_over_rows(runs, width, pooling, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(40, width, generator=generator).to(dtype)
    starts, lengths = torch.tensor(runs).T
    pooled = POOLINGS[pooling](make_states(hidden, starts, lengths))
    states = hidden.double()
    rows = [(states[start - 1], states[start : start + length]) for start, length in runs]
    expected = torch.stack([NAIVE[pooling](*row) for row in rows]).float()
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
    assert pooled.dtype == torch.float32
    if pooling == "std":
        assert pooled[lengths == 1].eq(0).all()
