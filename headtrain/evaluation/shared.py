"""The samples that the stores of several heads share, with the scores of each head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints
from featurize.store import FeatureStore
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.groups import find_equal_pairs, group_codes
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedSamples:
    """Samples that all stores share, in the order of the first, with the scores of each head."""

    scored: tuple[ScoredSamples, ...]
    """By head."""
    task_ids: pa.ChunkedArray
    """[samples]"""
    num_left_out: int
    """Labelled samples that not all of the stores have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Matched:
    """The labelled samples of a store, and which of them the samples of the first store are."""

    store: FeatureStore
    labelled: LabelledSamples
    places: pa.ChunkedArray
    """[samples of the first store], null where this one has no such sample."""


def read_shared(heads: Sequence[tuple[TrainedHead, FeatureStore]]) -> SharedSamples:
    """Score heads, each on a store of its recipe, and match the samples by task_id.

    Raises:
        EvaluationError: no sample is in all stores, or one has different labels.
    """
    store = heads[0][1]
    labelled = read_labelled_samples(store)
    ids = _task_ids(store, labelled)
    matched = [_match(ids, other) for _, other in heads]
    is_shared = np.logical_and.reduce([pc.is_valid(one.places).to_numpy() for one in matched])
    if not is_shared.any():
        raise EvaluationError(
            f"{' and '.join(str(one.store.path) for one in matched)} have no sample in common, so "
            "their heads cannot be compared; featurize the same split for all"
        )
    kept = labelled.take(is_shared)
    rows = [_rows(one, is_shared) for one in matched]
    for one, places in zip(matched, rows, strict=True):
        _refuse_other_labels(store, kept, ids.filter(pa.array(is_shared)), one, places)
    # samples that one of the stores cannot tell apart are not compared
    equal_pairs = [
        find_equal_pairs(
            group_codes(kept.problems, one.labelled.feature_rows[places]), kept.is_correct
        )
        for one, places in zip(matched, rows, strict=True)
    ]
    scored = ScoredSamples(
        scores=np.zeros(len(kept)),
        is_correct=kept.is_correct,
        problem=kept.problems,
        output_tokens=kept.output_tokens,
        equal_pairs=np.unique(np.concatenate(equal_pairs), axis=0),
    )
    return SharedSamples(
        scored=tuple(
            scored.with_scores(head.score(one.store)[one.labelled.table_rows[places]])
            for (head, _), one, places in zip(heads, matched, rows, strict=True)
        ),
        task_ids=ids.filter(pa.array(is_shared)),
        num_left_out=sum(len(one.labelled) - len(kept) for one in matched),
    )


def _task_ids(store: FeatureStore, labelled: LabelledSamples) -> pa.ChunkedArray:
    return store.samples["task_id"].take(pa.array(labelled.table_rows))


def _match(ids: pa.ChunkedArray, store: FeatureStore) -> _Matched:
    labelled = read_labelled_samples(store)
    places = pc.index_in(ids, value_set=_task_ids(store, labelled).combine_chunks())
    return _Matched(store=store, labelled=labelled, places=places)


def _rows(one: _Matched, is_shared: Bools) -> Ints:
    """The shared samples as indices of the store's labelled samples."""
    rows: Ints = one.places.filter(pa.array(is_shared)).to_numpy().astype(np.int64)
    return rows


def _refuse_other_labels(
    store: FeatureStore, kept: LabelledSamples, ids: pa.ChunkedArray, other: _Matched, rows: Ints
) -> None:
    differs = np.flatnonzero(kept.is_correct != other.labelled.is_correct[rows])
    if len(differs):
        raise EvaluationError(
            f"sample {ids[int(differs[0])].as_py()!r} has different labels in {store.path} and "
            f"{other.store.path}; featurize both from one dataset"
        )
