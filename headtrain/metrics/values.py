"""Numbers of single samples, AUC, F1, calibration, as functions of sums over problems.

So they are resampled like everything else: problems are drawn, and their sums added up.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurize.arrays import Floats, Ints
from headtrain.evaluation.results import DecisionResult, ValueResult, VarianceResult
from headtrain.metrics.bootstrap import (
    JointSums,
    Resampled,
    ratio,
    value_gap,
    value_sums,
)
from headtrain.metrics.calibration import Decision, calibration_surplus
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.metrics.variance import (
    between_share,
    intraclass_correlation,
    variance_sums,
)
from headtrain.settings import EvaluationSettings


class Values(NamedTuple):
    """What the samples of a split say about one judge's scores."""

    values: ValueResult
    gap: Resampled
    variance: VarianceResult


class Decided(NamedTuple):
    """What they say about its probabilities and calls."""

    result: DecisionResult
    probability_gap: Resampled


def measure_values(scored: ScoredSamples, settings: EvaluationSettings, seed: list[int]) -> Values:
    """Means of either label, their gap, and where the variance lies."""
    sums = JointSums()
    _add_values(sums, scored)
    variances = variance_sums(scored)
    sums.add("between", variances, between_share)
    sums.add("intraclass", variances, intraclass_correlation)
    found = sums.resample(rounds=settings.bootstrap_rounds, seed=seed)
    return Values(
        values=_value_result(found, settings.confidence),
        gap=found["gap"],
        variance=VarianceResult(
            between_problems=found["between"].interval_if_defined(settings.confidence),
            intraclass_correlation=found["intraclass"].interval_if_defined(settings.confidence),
        ),
    )


def measure_decision(
    scored: ScoredSamples, decision: Decision, settings: EvaluationSettings, seed: list[int]
) -> Decided:
    """How probabilities and calls that were fitted on train hold on these samples."""
    labels = scored.is_correct
    probability = decision.calibration.probability(scored.scores)
    problem = _codes(scored)
    sums = JointSums()
    _add_values(sums, scored.with_scores(probability))
    for name, is_called in (
        ("f1", scored.scores >= decision.f1_threshold),
        ("f1_all", np.ones_like(labels)),
    ):
        sums.add(name, f1_sums(problem, is_called, labels), ratio(0, 1))
    squared = np.bincount(problem, weights=(probability - labels) ** 2)
    sizes = np.bincount(problem).astype(np.float64)
    sums.add("brier", np.stack([squared, sizes], axis=1), ratio(0, 1))
    sums.add("ece", _error_sums(problem, probability, labels), _error)
    found = sums.resample(rounds=settings.bootstrap_rounds, seed=seed)

    confidence = settings.confidence
    return Decided(
        result=DecisionResult(
            probabilities=_value_result(found, confidence),
            f1=found["f1"].interval(confidence),
            f1_of_calling_all_correct=found["f1_all"].interval(confidence),
            expected_calibration_error=found["ece"].recentred().interval(confidence),
            brier=found["brier"].interval(confidence),
        ),
        probability_gap=found["gap"],
    )


def add_auc(sums: JointSums, name: str, scored: ScoredSamples) -> None:
    """Add the area under the ROC curve of one judge."""
    columns = auc_sums(scored)
    observed = float(columns[:, 0].sum() / columns[:, 1].sum())
    sums.add(name, columns, lambda drawn: _auc(drawn) - observed)


def auc_sums(scored: ScoredSamples) -> Floats:
    """Return [problems, 4]: shares beaten of the correct, their count, the same of the incorrect.

    A correct sample's share is that of all incorrect samples it scores above, an incorrect one's
    that of all correct samples it scores below; either mean is the AUC. Their sum less the AUC is
    the AUC's first-order (Hoeffding) expansion in the weights of the problems, which makes a
    resample cost as much as one of a mean: DeLong's method, with problems in the place of samples.
    """
    order = np.argsort(scored.scores)
    labels, scores = scored.is_correct[order], scored.scores[order]
    problem = _codes(scored)[order]
    num_problems = int(problem.max()) + 1
    start = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])  # of each tie
    sizes = np.diff(start, append=len(scores))
    columns = []
    for own, is_above in ((labels, True), (~labels, False)):
        before = np.concatenate([[0], np.cumsum(~own)])  # others before each place
        # others below and not above, ties counting one half
        share = (before[start] + before[start + sizes]) / (2 * max(int(before[-1]), 1))
        beaten = np.repeat(share if is_above else 1 - share, sizes)
        columns.append(np.bincount(problem, np.where(own, beaten, 0.0), num_problems))
        columns.append(np.bincount(problem, own, num_problems))
    return np.stack(columns, axis=1)


def f1_sums(
    problem: Ints, is_called: npt.NDArray[np.bool_], labels: npt.NDArray[np.bool_]
) -> Floats:
    """Return [problems, 2]: twice the correct that are called, and called plus correct."""
    return np.stack(
        [
            2.0 * np.bincount(problem, weights=is_called & labels),
            np.bincount(problem, weights=is_called.astype(np.int64) + labels),
        ],
        axis=1,
    )


def _auc(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3], dtype=np.float64)


def _error_sums(problem: Ints, probability: Floats, labels: npt.NDArray[np.bool_]) -> Floats:
    """Return [problems, bins + 1]: surplus of correct samples in each bin, and all samples."""
    surplus = calibration_surplus(probability, labels, problem)
    return np.concatenate([surplus, np.bincount(problem)[:, None]], axis=1)


def _error(sums: Floats) -> Floats:
    return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1], dtype=np.float64)


def _add_values(sums: JointSums, scored: ScoredSamples) -> None:
    columns = value_sums(scored)
    sums.add("mean_correct", columns[:, :2], ratio(0, 1))
    sums.add("mean_incorrect", columns[:, 2:], ratio(0, 1))
    sums.add("gap", columns, value_gap)


def _value_result(found: dict[str, Resampled], confidence: float) -> ValueResult:
    return ValueResult(
        mean_correct=found["mean_correct"].interval(confidence),
        mean_incorrect=found["mean_incorrect"].interval(confidence),
        gap=found["gap"].interval(confidence),
    )


def _codes(scored: ScoredSamples) -> Ints:
    return np.unique(scored.problem, return_inverse=True)[1].astype(np.int64)
