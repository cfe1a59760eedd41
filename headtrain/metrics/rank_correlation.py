"""Rank correlation of score and output length within problems."""

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.metrics.groups import sort_ties
from headtrain.metrics.pairwise import ScoredSamples


def rank_correlations(scored: ScoredSamples) -> Floats:
    """Get Spearman's correlation of score and length for each problem where it is defined.

    It is undefined if all scores or all lengths of a problem are equal. Tied values share their
    average rank.
    """
    scores = _centred_ranks(scored.group, scored.scores)
    lengths = _centred_ranks(scored.group, scored.output_tokens.astype(np.float64))
    squares = np.bincount(scored.group, scores**2) * np.bincount(scored.group, lengths**2)
    is_defined = squares > 0
    products = np.bincount(scored.group, scores * lengths)[is_defined]
    return np.asarray(products / np.sqrt(squares[is_defined]), dtype=np.float64)


def _centred_ranks(groups: Ints, values: Floats) -> Floats:
    """Average rank of each value in its group, minus the group's mean rank, [n]."""
    order, starts, tie_start = sort_ties(groups, values)
    tie_sizes = np.diff(tie_start, append=len(groups))
    sizes = np.diff(starts, append=len(groups))
    # counted from the start of all groups: subtracting the group's mean removes its offset
    average = np.repeat(tie_start + (tie_sizes - 1) / 2, tie_sizes)
    ranks = np.empty(len(groups))
    ranks[order] = average - np.repeat(starts + (sizes - 1) / 2, sizes)
    return ranks
