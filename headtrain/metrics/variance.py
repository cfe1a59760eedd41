"""Where a score's variance lies: between problems, or between the outputs of one problem.

A critic that has memorised which problems are solved often scores all outputs of a problem alike.
With problems p of n_p samples, mean m_p, and the grand mean m of all n samples:

    between = sum n_p (m_p - m)^2 / total,    total = sum (s - m)^2,    within = 1 - between

Scores without any regard to the problem have between = (problems - 1) / (n - 1) already, since
the means of few samples vary; the intraclass correlation takes that off:

    (MSB - MSW) / (MSB + (n0 - 1) MSW),    n0 = (n - sum n_p^2 / n) / (problems - 1)
"""

import numpy as np

from featurize.arrays import Floats
from headtrain.metrics.pairwise import ScoredSamples


def variance_sums(scored: ScoredSamples) -> Floats:
    """Return [problems, 6]: 1, n_p, n_p^2, sum of scores, n_p m_p^2, sum of squared scores."""
    _, code = np.unique(scored.problem, return_inverse=True)
    scores = scored.scores - scored.scores.mean()  # the squares of far-off scores lose digits
    sizes = np.bincount(code).astype(np.float64)
    totals = np.bincount(code, weights=scores)
    squares = np.bincount(code, weights=scores**2)
    return np.stack(
        [np.ones_like(sizes), sizes, sizes**2, totals, totals**2 / sizes, squares], axis=1
    )


def between_share(sums: Floats) -> Floats:
    """Share of the variance that lies between problems; rounds of `variance_sums` to [rounds]."""
    _, samples, _, total, of_means, squares = sums.T
    return np.asarray(
        (of_means - total**2 / samples) / (squares - total**2 / samples), dtype=np.float64
    )


def intraclass_correlation(sums: Floats) -> Floats:
    """Between share without what chance adds; below 0 where problems are more alike than chance."""
    problems, samples, sizes, total, of_means, squares = sums.T
    between = (of_means - total**2 / samples) / (problems - 1)
    within = (squares - of_means) / (samples - problems)
    typical = (samples - sizes / samples) / (problems - 1)
    return np.asarray((between - within) / (between + (typical - 1) * within), dtype=np.float64)
