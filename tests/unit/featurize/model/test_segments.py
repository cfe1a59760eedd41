"""Segments of outputs: the plain forward's states, cut by whole numbers and averaged."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurize.model.engine import Engine, Forward
from featurize.model.forward import FeatureSpec
from featurize.model.segments import segment_ends
from featurize.store.shards import SEGMENT_LOGPROB, SEGMENT_TOKENS
from tests.support.plain_features import (
    count_rows,
    largest_error,
    load_plain,
    load_tiny,
    make_groups,
    plain_features,
)
from tests.support.tiny_models import NUM_LAYERS, write_tiny_llama

NUM_SEGMENTS = 4
SPEC = FeatureSpec(
    layers=(1, NUM_LAYERS), poolings=("mean",), likelihood=True, segments=NUM_SEGMENTS
)
GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8, 2)), (1, (4, 30))], end=(3, 4))
FP32 = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize("token_budget", [40, 10_000])
def test_segments_are_means_of_the_plain_forwards_states(
    folder: Path, forward: Forward, token_budget: int
) -> None:
    expected = plain_features(load_plain(folder), GROUPS, SPEC)
    engine = Engine(load_tiny(folder, SPEC), SPEC, forward, token_budget)
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
