"""The numbers of a head's scores, one entry each: name, unit, meaning and how it is computed.

A new entry appears in the JSON, the tables and the report, and with a `metric` in the tracker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurize.arrays import Bools, Floats
from headtrain.evaluation.numbers import Quantity
from headtrain.metrics.bootstrap import SumStatistic
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.metrics.values import (
    between_problems,
    brier,
    calibration_error,
    f1,
    intraclass_correlation,
    mean_score,
    score_gap,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadScores:
    """The head's scores of a split, and what the decision fitted on train makes of them."""

    scored: ScoredSamples
    decision: Decision | None
    distances: Floats | None = None
    """Share of train samples that are nearer to train than each sample, [n]."""

    @cached_property
    def probability(self) -> ScoredSamples:
        """The samples with calibrated probabilities as scores."""
        assert self.decision is not None
        return self.scored.with_scores(self.decision.calibration.probability(self.scored.scores))

    @property
    def is_called(self) -> Bools:
        """Whether each sample scores at least the threshold, [n]."""
        assert self.decision is not None
        return self.scored.scores >= self.decision.f1_threshold


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A number of the head's scores and how it is computed."""

    of: Callable[[HeadScores], SumStatistic]
    is_recentred: bool = False
    """Whether resampling biases it, see `Resampled.recentred`."""


def _mean_correct(scored: ScoredSamples) -> SumStatistic:
    return mean_score(scored, scored.is_correct)


def _mean_incorrect(scored: ScoredSamples) -> SumStatistic:
    return mean_score(scored, ~scored.is_correct)


def _mean_distance(head: HeadScores, least: float | None) -> SumStatistic:
    """Mean distance of all samples, or the share of those farther than `least`."""
    assert head.distances is not None
    values = head.distances if least is None else head.distances > least
    everything = np.ones(len(head.scored), bool)
    return mean_score(head.scored.with_scores(values), everything)


VALUES = (
    Metric(
        key="values.mean_correct",
        title="mean of correct",
        unit="score",
        meaning="Mean score of the correct outputs.",
        metric="mean_correct",
        of=lambda head: _mean_correct(head.scored),
    ),
    Metric(
        key="values.mean_incorrect",
        title="mean of incorrect",
        unit="score",
        meaning="Mean score of the incorrect outputs.",
        metric="mean_incorrect",
        of=lambda head: _mean_incorrect(head.scored),
    ),
    Metric(
        key="values.gap",
        title="gap",
        unit="score",
        meaning="Mean score of the correct outputs minus that of the incorrect ones.",
        metric="gap",
        minus="gap",
        minus_metric="gap",
        of=lambda head: score_gap(head.scored),
    ),
    Metric(
        key="variance.between_problems",
        title="variance between problems",
        unit="share",
        meaning="Share of the variance of the scores between problems.",
        metric="variance_between_problems",
        of=lambda head: between_problems(head.scored),
    ),
    Metric(
        key="variance.intraclass_correlation",
        title="intraclass correlation",
        unit="share",
        meaning="Intraclass correlation: the share between problems beyond what chance adds.",
        of=lambda head: intraclass_correlation(head.scored),
    ),
)
"""Numbers of the scores themselves."""

DECISION = (
    Metric(
        key="decision.probabilities.mean_correct",
        title="P(correct) of correct",
        unit="share",
        meaning="Mean probability of the correct outputs, calibrated on train.",
        of=lambda head: _mean_correct(head.probability),
    ),
    Metric(
        key="decision.probabilities.mean_incorrect",
        title="P(correct) of incorrect",
        unit="share",
        meaning="Mean probability of the incorrect outputs, calibrated on train.",
        of=lambda head: _mean_incorrect(head.probability),
    ),
    Metric(
        key="decision.probabilities.gap",
        title="gap of P(correct)",
        unit="share",
        meaning="Mean probability of the correct outputs minus that of the incorrect ones.",
        metric="probability_gap",
        minus="probability_gap",
        minus_metric="probability_gap",
        of=lambda head: score_gap(head.probability),
    ),
    Metric(
        key="decision.f1",
        title="F1 (threshold of train)",
        unit="share",
        meaning="F1 of calling correct every output above the threshold fitted on train.",
        metric="f1",
        of=lambda head: f1(head.scored, head.is_called),
    ),
    Metric(
        key="decision.f1_of_calling_all_correct",
        title="F1 of calling all correct",
        unit="share",
        meaning="F1 of calling every output correct, which needs no head.",
        of=lambda head: f1(head.scored, np.ones(len(head.scored), bool)),
    ),
    Metric(
        key="decision.brier",
        title="Brier score",
        unit="share",
        meaning="Mean squared difference of probability and label; 0.25 for always 0.5.",
        metric="brier",
        of=lambda head: brier(head.probability),
    ),
    Metric(
        key="decision.expected_calibration_error",
        title="calibration error (ECE)",
        unit="share",
        meaning="Mean distance of probability and share of correct outputs, in 15 bins.",
        metric="expected_calibration_error",
        of=lambda head: calibration_error(head.probability),
        is_recentred=True,
    ),
)
"""Numbers of the probabilities and calls, which need a decision fitted on train."""

DISTANCE = (
    Metric(
        key="distance.mean",
        title="distance to train",
        unit="share",
        meaning="Mean share of train samples that are nearer to train; 0.5 for more of the same.",
        metric="distance_mean",
        of=lambda head: _mean_distance(head, None),
    ),
    Metric(
        key="distance.beyond_90",
        title="farther than 90% of train",
        unit="share",
        meaning="Share of samples farther from train than 90% of it; 0.1 is expected.",
        metric="distance_beyond_90",
        of=lambda head: _mean_distance(head, 0.9),
    ),
    Metric(
        key="distance.beyond_99",
        title="farther than 99% of train",
        unit="share",
        meaning="Share of samples farther from train than 99% of it; 0.01 is expected.",
        metric="distance_beyond_99",
        of=lambda head: _mean_distance(head, 0.99),
    ),
)
"""Numbers of the distance to train, if it was kept with the head; train itself has none."""

BEYOND_90 = DISTANCE[1]

HEAD_NUMBERS: tuple[Quantity, ...] = (*VALUES, *DECISION, *DISTANCE)
"""All of them, in the order of JSON and tables."""
