"""How much a judge's score goes with the length of the output, within problems."""

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.metrics.pairwise import ScoredSamples


def rank_correlations(scored: ScoredSamples) -> Floats:
    """Return Spearman's correlation of score and length of each problem that has one.

    A problem has one if neither its scores nor its lengths are all equal; tied values share their
    average rank.
    """
    _, problem = np.unique(scored.problem, return_inverse=True)
    problem = problem.astype(np.int64)
    own = _centred_ranks(problem, scored.scores)
    other = _centred_ranks(problem, scored.output_tokens.astype(np.float64))
    squares = np.bincount(problem, own**2) * np.bincount(problem, other**2)
    has_one = squares > 0
    products = np.bincount(problem, own * other)[has_one]
    return np.asarray(products / np.sqrt(squares[has_one]), dtype=np.float64)


def _centred_ranks(groups: Ints, values: Floats) -> Floats:
    """Average rank of each value in its group, minus the group's mean rank, [n]."""
    order = np.argsort(values)
    order = order[np.argsort(groups[order], kind="stable")]
    group, value = groups[order], values[order]
    is_first = np.r_[True, group[1:] != group[:-1]]
    tie_start = np.flatnonzero(is_first | np.r_[True, value[1:] != value[:-1]])
    tie_sizes = np.diff(tie_start, append=len(groups))
    starts = np.flatnonzero(is_first)
    sizes = np.diff(starts, append=len(groups))
    # counted from the start of all: the group's own start goes when its mean is taken off
    average = np.repeat(tie_start + (tie_sizes - 1) / 2, tie_sizes)
    ranks = np.empty(len(groups))
    ranks[order] = average - np.repeat(starts + (sizes - 1) / 2, sizes)
    return ranks
