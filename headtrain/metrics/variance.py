"""Share of the score variance between problems; the rest is within problems.

A critic that only learnt which problems get solved scores all outputs of a problem alike.
With problems p of n_p samples, mean m_p, and the grand mean m of all n samples:

    between = sum n_p (m_p - m)^2 / total,    total = sum (s - m)^2,    within = 1 - between

Scores independent of the problem already have between = (problems - 1) / (n - 1), because means of
few samples vary. The intraclass correlation corrects for that:

    (MSB - MSW) / (MSB + (n0 - 1) MSW),    n0 = (n - sum n_p^2 / n) / (problems - 1)
"""

import numpy as np

from featurize.arrays import Floats
from headtrain.metrics.bootstrap import SumStatistic
from headtrain.metrics.pairwise import ScoredSamples


def between_problems(scored: ScoredSamples) -> SumStatistic:
    """Share of the variance between problems; undefined if all scores are equal."""
    return SumStatistic(_variance_sums(scored), _between_share)


def intraclass_correlation(scored: ScoredSamples) -> SumStatistic:
    """Share between problems corrected for chance; undefined for a single problem."""
    return SumStatistic(_variance_sums(scored), _intraclass)


def _variance_sums(scored: ScoredSamples) -> Floats:
    """[problems, 6]: 1, n_p, n_p^2, sum of scores, n_p m_p^2, sum of squared scores."""
    scores = scored.scores - scored.scores.mean()  # squares of large scores would lose digits
    sizes = np.bincount(scored.group).astype(np.float64)
    totals = np.bincount(scored.group, weights=scores)
    squares = np.bincount(scored.group, weights=scores**2)
    return np.stack(
        [np.ones_like(sizes), sizes, sizes**2, totals, totals**2 / sizes, squares], axis=1
    )


def _between_share(sums: Floats) -> Floats:
    _, samples, _, total, of_means, squares = sums.T
    return np.asarray(
        (of_means - total**2 / samples) / (squares - total**2 / samples), dtype=np.float64
    )


def _intraclass(sums: Floats) -> Floats:
    problems, samples, sizes, total, of_means, squares = sums.T
    between = (of_means - total**2 / samples) / (problems - 1)
    within = (squares - of_means) / (samples - problems)
    typical = (samples - sizes / samples) / (problems - 1)
    return np.asarray((between - within) / (between + (typical - 1) * within), dtype=np.float64)
