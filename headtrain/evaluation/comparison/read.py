"""Scores two heads on the samples both have features of, each on a store of its own recipe."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurize.store import FeatureStore
from headtrain.features.inputs import read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedSamples:
    """Samples in the order of the first store, as either head scores them."""

    first: ScoredSamples
    second: ScoredSamples
    task_ids: pa.ChunkedArray
    """[samples]"""
    num_left_out: int
    """Labelled samples that only one of the stores has."""


def read_shared(
    first: TrainedHead, first_store: FeatureStore, second: TrainedHead, second_store: FeatureStore
) -> SharedSamples:
    """Match the samples of two stores by task_id; the stores may be one and the same."""
    labelled = read_labelled_samples(first_store)
    ids = first_store.samples["task_id"].take(pa.array(labelled.table_rows))
    other = read_labelled_samples(second_store)
    other_ids = second_store.samples["task_id"].take(pa.array(other.table_rows))
    places = pc.index_in(ids, value_set=other_ids.combine_chunks())
    is_shared = pc.is_valid(places).to_numpy()
    if not is_shared.any():
        raise EvaluationError(
            f"{first_store.path} and {second_store.path} have no sample in common, so their heads "
            "cannot be compared; featurize the same split for both"
        )
    matched: npt.NDArray[np.int64] = pc.drop_null(places).to_numpy().astype(np.int64)
    kept = labelled.take(is_shared)
    differs = kept.is_correct != other.is_correct[matched]
    if differs.any():
        task_id = ids.filter(pa.array(is_shared))[int(np.flatnonzero(differs)[0])].as_py()
        raise EvaluationError(
            f"sample {task_id!r} has one label in {first_store.path} and the other in "
            f"{second_store.path}; featurize both from one dataset"
        )
    scored = ScoredSamples(
        scores=np.asarray(first.score(first_store)[kept.table_rows], np.float64),
        is_correct=kept.is_correct,
        problem=kept.problems,
        output_tokens=kept.output_tokens,
    )
    rows = other.table_rows[matched]
    return SharedSamples(
        first=scored,
        second=scored.with_scores(second.score(second_store)[rows]),
        task_ids=ids.filter(pa.array(is_shared)),
        num_left_out=len(labelled) + len(other) - 2 * len(matched),
    )
