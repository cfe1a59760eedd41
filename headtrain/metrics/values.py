"""Metrics of single samples as sums over problems: means, AUC, F1, calibration, variance.

Each takes the samples of one judge and returns a `SumStatistic`, which the bootstrap resamples by
adding up the rows of the problems drawn. The rank correlation is one number for each problem.

The variance of the scores is split into that between and that within problems. A critic that only
learnt which problems get solved scores all outputs of a problem alike. With problems p of n_p
samples, mean m_p, and the grand mean m of all n samples:

    between = sum n_p (m_p - m)^2 / total,    total = sum (s - m)^2,    within = 1 - between

Scores independent of the problem already have between = (problems - 1) / (n - 1), because means of
few samples vary. The intraclass correlation corrects for that:

    (MSB - MSW) / (MSB + (n0 - 1) MSW),    n0 = (n - sum n_p^2 / n) / (problems - 1)
"""

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.metrics.bootstrap import SumStatistic, ratio
from headtrain.metrics.calibration import calibration_surplus
from headtrain.metrics.groups import sort_ties
from headtrain.metrics.pairwise import ScoredSamples


def mean_score(scored: ScoredSamples, among: Bools) -> SumStatistic:
    """Mean score of the samples in a mask, [n]."""
    return _quotient(scored, np.where(among, scored.scores, 0.0), among)


def score_gap(scored: ScoredSamples) -> SumStatistic:
    """Mean score of the correct samples minus that of the incorrect ones."""
    parts = [mean_score(scored, among).columns for among in (scored.is_correct, ~scored.is_correct)]
    return SumStatistic(np.concatenate(parts, axis=1), _gap)


def auc(scored: ScoredSamples) -> SumStatistic:
    """Area under the ROC curve: pairs won if all samples counted as one problem.

    Columns are [problems, 4]: sum over a problem's correct samples of the share of all incorrect
    samples that score lower, their number, and the same with the labels exchanged. Either mean is
    the AUC. Their sum minus the AUC is the first-order (Hoeffding) expansion of the AUC in the
    weights of the problems, so a resample costs no more than one of a mean: DeLong's method, with
    problems in place of samples. Of few problems the expansion may leave [0, 1]; it is clipped.
    """
    order = np.argsort(scored.scores)
    labels, scores, group = scored.is_correct[order], scored.scores[order], scored.group[order]
    start = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])  # of each tie
    sizes = np.diff(start, append=len(scores))
    columns = []
    for own, is_above in ((labels, True), (~labels, False)):
        before = np.concatenate([[0], np.cumsum(~own)])  # samples of the other label before each
        # share of the other label that scores lower, ties counting one half
        share = (before[start] + before[start + sizes]) / (2 * max(int(before[-1]), 1))
        beaten = np.repeat(share if is_above else 1 - share, sizes)
        columns.append(np.bincount(group, np.where(own, beaten, 0.0), scored.num_groups))
        columns.append(np.bincount(group, own, scored.num_groups))
    observed = float(columns[0].sum() / columns[1].sum())
    return SumStatistic(
        np.stack(columns, axis=1),
        lambda sums: np.clip(
            sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3] - observed, 0.0, 1.0
        ),
    )


def f1(scored: ScoredSamples, is_called: Bools) -> SumStatistic:
    """F1 of calling the samples in a mask correct, 2 * hits / (called + correct)."""
    called, correct = is_called.astype(np.int64), scored.is_correct.astype(np.int64)
    return _quotient(scored, 2 * called * correct, called + correct)


def brier(probability: ScoredSamples) -> SumStatistic:
    """Mean squared difference of probability (the scores) and label; 0.25 for always 0.5."""
    apart = probability.scores - probability.is_correct
    return _quotient(probability, np.asarray(apart**2, np.float64), np.ones(len(probability)))


def calibration_error(probability: ScoredSamples) -> SumStatistic:
    """Expected calibration error of probabilities (the scores).

    The sum over 15 bins [0, 1/15), ..., [14/15, 1] of n_bin / n * |share correct - mean
    probability|, where n_bin * |share - mean| = |sum of (label - probability)|.
    """
    surplus = calibration_surplus(probability.scores, probability.is_correct, probability.group)
    columns = np.concatenate([surplus, _sizes(probability)[:, None]], axis=1)  # [problems, 16]
    return SumStatistic(columns, _mean_absolute)


def _quotient(
    scored: ScoredSamples, numerators: Floats | Ints, denominators: Floats | Ints | Bools
) -> SumStatistic:
    """One sum over the samples divided by another, each given by its terms, [n]."""
    columns = [np.bincount(scored.group, weights=one) for one in (numerators, denominators)]
    return SumStatistic(np.stack(columns, axis=1), ratio(0, 1))


def _gap(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], dtype=np.float64)


def _mean_absolute(sums: Floats) -> Floats:
    return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1], dtype=np.float64)


def _sizes(scored: ScoredSamples) -> Floats:
    return np.bincount(scored.group).astype(np.float64)


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
