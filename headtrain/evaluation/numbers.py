"""Named numbers: what an evaluation found, with unit and meaning, for JSON, tables and tracking.

A new number of the head's scores is one entry in VALUES, DECISION or DISTANCE: it appears in the
JSON, the tables and the report, and with a `metric` in the tracker.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurize.arrays import Bools, Floats
from headtrain.metrics.bootstrap import Accuracies, Interval, SumStatistic
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

Intervals = Mapping[str, Interval | None]
"""Estimates with their intervals by the key of their quantity; None if undefined (0 / 0)."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a number measures."""

    key: str
    """Path of the number in its part of the JSON, such as `decision.brier`."""

    title: str
    """Label of its row or column in tables."""

    meaning: str
    """What the number says, in a sentence."""

    unit: str = "share"
    """share, score or correlation."""

    metric: str | None = None
    """Name with a tracking server, without a prefix; None is not tracked."""

    are_bounds_tracked: bool = False
    """Whether the bounds of the interval are tracked too."""

    minus: str | None = None
    """Key of the difference between train and another split; None if it is not computed."""

    minus_metric: str | None = None
    """Name of the difference with a tracking server; None is not tracked."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value that is tracked."""

    metric: str
    """Name with a tracking server, without `eval/<split>/`."""

    value: Interval | None
    """None if undefined."""

    quantity: Quantity

    def to_metrics(self) -> Iterator[tuple[str, float]]:
        """Yield name and value of each metric to track."""
        if self.value is None:
            return
        yield self.metric, self.value.estimate
        if self.quantity.are_bounds_tracked:
            for bound, value in (("low", self.value.low), ("high", self.value.high)):
                if value is not None:
                    yield f"{self.metric}_{bound}", value


def name_all(
    quantities: Iterable[Quantity], found: Intervals, prefix: str = ""
) -> Iterator[Number]:
    """Name the values of those quantities that were found and are tracked."""
    for quantity in quantities:
        if quantity.key in found and quantity.metric is not None:
            yield Number(
                metric=f"{prefix}{quantity.metric}", value=found[quantity.key], quantity=quantity
            )


OVER_PAIRS = Quantity(
    key="accuracy_over_pairs",
    title="accuracy over pairs",
    meaning="Share of pairs in the right order, every pair with the same weight; 0.5 is chance.",
    metric="accuracy_over_pairs",
    minus="accuracy_over_pairs",
)
OVER_PROBLEMS = Quantity(
    key="accuracy_over_problems",
    title="accuracy over problems",
    meaning="Share of pairs in the right order, every problem with the same weight.",
    metric="accuracy_over_problems",
    are_bounds_tracked=True,
    minus="accuracy_over_problems",
    minus_metric="accuracy",
)
AUC = Quantity(
    key="auc",
    title="AUC",
    meaning="Area under the ROC curve of all samples: includes knowing which problems are easy.",
    metric="auc",
)
LENGTH_CORRELATION = Quantity(
    key="length_correlation",
    title="rank correlation of score and length within problems",
    unit="correlation",
    meaning="Mean over problems of Spearman's correlation of score and output length.",
    metric="length_correlation",
)
ACCURACY = (OVER_PAIRS, OVER_PROBLEMS)
"""Quantities of every set of pairs."""

JUDGE = (*ACCURACY, AUC)
"""Quantities of every judge of a split."""


def differences(quantities: Iterable[Quantity]) -> list[Quantity]:
    """Describe the differences between train and another split of those that have one."""
    return [
        Quantity(
            key=quantity.minus,
            title=quantity.title,
            unit=quantity.unit,
            meaning=f"Train minus this split: {quantity.meaning}",
            metric=quantity.minus_metric,
        )
        for quantity in quantities
        if quantity.minus is not None
    ]


def pass_rate(n: int, place: int) -> Quantity:
    """The pass rate of the best of n candidates, `place` in the list of sizes."""
    return Quantity(
        key=str(place),
        title=f"n = {n}",
        meaning=f"Pass rate if one of {n} candidates is picked, mean over all subsets of {n}.",
        metric=f"best_of_{n}",
    )


def accuracy_intervals(accuracies: Accuracies, confidence: float) -> dict[str, Interval]:
    """Get the intervals of both accuracies by key."""
    return {
        OVER_PAIRS.key: accuracies.over_pairs.interval(confidence),
        OVER_PROBLEMS.key: accuracies.over_problems.interval(confidence),
    }


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


def _mean_distance(head: HeadScores, least: float | None = None) -> SumStatistic:
    """Mean distance of all samples, or the share of those farther than `least`."""
    assert head.distances is not None
    values = head.distances if least is None else head.distances > least
    return mean_score(head.scored.with_scores(values), np.ones(len(head.scored), bool))


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
        meaning="Share of the variance of the scores between problems.",
        metric="variance_between_problems",
        of=lambda head: between_problems(head.scored),
    ),
    Metric(
        key="variance.intraclass_correlation",
        title="intraclass correlation",
        meaning="Intraclass correlation: the share between problems beyond what chance adds.",
        of=lambda head: intraclass_correlation(head.scored),
    ),
)
"""Numbers of the scores themselves."""

DECISION = (
    Metric(
        key="decision.probabilities.mean_correct",
        title="P(correct) of correct",
        meaning="Mean probability of the correct outputs, calibrated on train.",
        of=lambda head: _mean_correct(head.probability),
    ),
    Metric(
        key="decision.probabilities.mean_incorrect",
        title="P(correct) of incorrect",
        meaning="Mean probability of the incorrect outputs, calibrated on train.",
        of=lambda head: _mean_incorrect(head.probability),
    ),
    Metric(
        key="decision.probabilities.gap",
        title="gap of P(correct)",
        meaning="Mean probability of the correct outputs minus that of the incorrect ones.",
        metric="probability_gap",
        minus="probability_gap",
        minus_metric="probability_gap",
        of=lambda head: score_gap(head.probability),
    ),
    Metric(
        key="decision.f1",
        title="F1 (threshold of train)",
        meaning="F1 of calling correct every output above the threshold fitted on train.",
        metric="f1",
        of=lambda head: f1(head.scored, head.is_called),
    ),
    Metric(
        key="decision.f1_of_calling_all_correct",
        title="F1 of calling all correct",
        meaning="F1 of calling every output correct, which needs no head.",
        of=lambda head: f1(head.scored, np.ones(len(head.scored), bool)),
    ),
    Metric(
        key="decision.brier",
        title="Brier score",
        meaning="Mean squared difference of probability and label; 0.25 for always 0.5.",
        metric="brier",
        of=lambda head: brier(head.probability),
    ),
    Metric(
        key="decision.expected_calibration_error",
        title="calibration error (ECE)",
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
        meaning="Mean share of train samples that are nearer to train; 0.5 for more of the same.",
        metric="distance_mean",
        of=_mean_distance,
    ),
    Metric(
        key="distance.beyond_90",
        title="farther than 90% of train",
        meaning="Share of samples farther from train than 90% of it; 0.1 is expected.",
        metric="distance_beyond_90",
        of=lambda head: _mean_distance(head, 0.9),
    ),
    Metric(
        key="distance.beyond_99",
        title="farther than 99% of train",
        meaning="Share of samples farther from train than 99% of it; 0.01 is expected.",
        metric="distance_beyond_99",
        of=lambda head: _mean_distance(head, 0.99),
    ),
)
"""Numbers of the distance to train, if it was saved with the head; train itself has none."""

BEYOND_90 = DISTANCE[1]

HEAD_NUMBERS: tuple[Quantity, ...] = (*VALUES, *DECISION, *DISTANCE)
"""All of them, in the order of JSON and tables."""
