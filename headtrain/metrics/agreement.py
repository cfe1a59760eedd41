"""Agreement of two judges on the same pairs, and McNemar's test of their disagreements."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featurize.arrays import Ints
from headtrain.metrics.pairs import list_pairs
from headtrain.metrics.pairwise import ScoredSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Pairs of each problem that two judges order correctly; a tie is not correct."""

    both: Ints  # [problems]
    only_first: Ints  # [problems]
    only_second: Ints  # [problems]
    num_pairs: Ints  # [problems]


class McNemar(NamedTuple):
    """Result of McNemar's exact test."""

    only_first: int
    """Pairs that only the first judge orders correctly."""
    only_second: int
    p_value: float
    """Probability of a split at least this uneven if both judges were equally good."""


def count_agreement(first: ScoredSamples, second: ScoredSamples) -> Agreement:
    """Count, for each problem, which of two judges of the same samples order a pair correctly."""
    counts = np.zeros((4, first.num_groups), np.int64)
    for correct, incorrect in list_pairs(first):
        one, two = (judge.scores[correct] > judge.scores[incorrect] for judge in (first, second))
        # 0: neither, 1: only the first, 2: only the second, 3: both
        cell = (one + 2 * two) * first.num_groups + first.group[correct]
        counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)
    return Agreement(
        both=counts[3], only_first=counts[1], only_second=counts[2], num_pairs=counts.sum(axis=0)
    )


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Two-sided exact test: min(1, 2 P(X <= the smaller)) with X ~ Binomial(n, 1/2).

    NOTE: the test treats pairs as independent. Pairs of one problem share samples, so its p-value
    is too small; prefer the bootstrap interval over problems.
    """
    from scipy.special import bdtr  # the binomial distribution function, exact for any n

    total = only_first + only_second
    tail = float(bdtr(min(only_first, only_second), total, 0.5)) if total else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p_value=min(1.0, 2 * tail))
