"""Nested subsets of a train store: fewer problems, or fewer candidates of each problem."""

import numpy as np

from featurize.arrays import Floats, Ints
from featurize.store import FeatureStore
from headtrain.features.samples import LabelledSamples


def take_problems(samples: LabelledSamples, count: int, seed: int) -> Ints:
    """Return the table rows of `count` random problems; fewer problems are a subset of more."""
    problems = np.unique(samples.problems)
    chosen = np.random.default_rng(seed).permutation(problems)[:count]
    return samples.table_rows[np.isin(samples.problems, chosen)]


def take_candidates(samples: LabelledSamples, count: int, seed: int) -> Ints:
    """Return the table rows of at most `count` random samples of every problem, nested.

    Correct and incorrect samples are taken in turn while both last, so that two make a pair.
    """
    keys = np.random.default_rng(seed).random(len(samples))
    within_label = _ranks(samples.problems * 2 + samples.is_correct, keys)
    turn = 2 * within_label + ~samples.is_correct
    return samples.table_rows[_ranks(samples.problems, turn) < count]


def with_rows(store: FeatureStore, table_rows: Ints) -> FeatureStore:
    """Return the store with these rows of its sample table alone, and without planned pairs."""
    return store.with_samples(store.samples.take(np.sort(table_rows)))


def _ranks(groups: Ints, keys: Floats | Ints) -> Ints:
    """Rank of each key within its group, from 0, [n]."""
    order = np.lexsort((keys, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks
