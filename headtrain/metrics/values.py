"""Metrics of single samples as sums over problems: means, AUC, F1, Brier score, calibration.

Each takes the samples of one judge and returns a `SumStatistic`, which the bootstrap resamples by
adding up the rows of the problems drawn.
"""

import numpy as np

from featurize.arrays import Bools, Floats
from headtrain.metrics.bootstrap import SumStatistic, ratio
from headtrain.metrics.calibration import calibration_surplus
from headtrain.metrics.pairwise import ScoredSamples


def mean_score(scored: ScoredSamples, among: Bools) -> SumStatistic:
    """Mean score of the samples in a mask, [n]."""
    columns = [
        np.bincount(scored.group, weights=np.where(among, scored.scores, 0.0)),
        np.bincount(scored.group, weights=among),
    ]
    return SumStatistic(np.stack(columns, axis=1), ratio(0, 1))


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
    problems in place of samples.
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
        lambda sums: np.asarray(
            sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3] - observed, dtype=np.float64
        ),
    )


def f1(scored: ScoredSamples, is_called: Bools) -> SumStatistic:
    """F1 of calling the samples in a mask correct, 2 * hits / (called + correct)."""
    columns = [
        2.0 * np.bincount(scored.group, weights=is_called & scored.is_correct),
        np.bincount(scored.group, weights=is_called.astype(np.int64) + scored.is_correct),
    ]
    return SumStatistic(np.stack(columns, axis=1), ratio(0, 1))


def brier(probability: ScoredSamples) -> SumStatistic:
    """Mean squared difference of probability (the scores) and label; 0.25 for always 0.5."""
    squared = (probability.scores - probability.is_correct) ** 2
    columns = [np.bincount(probability.group, weights=squared), _sizes(probability)]
    return SumStatistic(np.stack(columns, axis=1), ratio(0, 1))


def calibration_error(probability: ScoredSamples) -> SumStatistic:
    """Expected calibration error of probabilities (the scores).

    The sum over 15 bins [0, 1/15), ..., [14/15, 1] of n_bin / n * |share correct - mean
    probability|, where n_bin * |share - mean| = |sum of (label - probability)|.
    """
    surplus = calibration_surplus(probability.scores, probability.is_correct, probability.group)
    columns = np.concatenate([surplus, _sizes(probability)[:, None]], axis=1)  # [problems, 16]
    return SumStatistic(columns, _mean_absolute)


def _gap(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], dtype=np.float64)


def _mean_absolute(sums: Floats) -> Floats:
    return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1], dtype=np.float64)


def _sizes(scored: ScoredSamples) -> Floats:
    return np.bincount(scored.group).astype(np.float64)
