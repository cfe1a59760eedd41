"""Named numbers: what an evaluation found, with unit and meaning, for JSON, tables and tracking."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from headtrain.metrics.bootstrap import Accuracies, Interval

Intervals = Mapping[str, Interval | None]
"""Estimates with their intervals by the key of their quantity; None if undefined (0 / 0)."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a number measures."""

    key: str
    """Path of the number in its part of the JSON, such as `decision.brier`."""

    title: str
    """Label of its row or column in tables."""

    unit: str
    """share, score or correlation."""

    meaning: str
    """What the number says, in a sentence."""

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
    """A value with its name."""

    key: str
    """Path from the top of the JSON, such as `splits.valid.values.gap`."""

    value: Interval | None
    """None if undefined."""

    quantity: Quantity
    """Title, unit and meaning."""

    metric: str | None
    """Name with a tracking server; None is not tracked."""

    def to_metrics(self) -> Iterator[tuple[str, float]]:
        """Yield name and value of each metric to track."""
        if self.metric is None or self.value is None:
            return
        yield self.metric, self.value.estimate
        if self.quantity.are_bounds_tracked:
            for bound, value in (("low", self.value.low), ("high", self.value.high)):
                if value is not None:
                    yield f"{self.metric}_{bound}", value


def name_all(
    quantities: Iterable[Quantity], found: Intervals, *, at: str, metrics: str | None = None
) -> Iterator[Number]:
    """Name the values of those quantities that were found.

    `at` is the path of their part of the JSON, `metrics` the prefix of their names with a tracking
    server, None if they are not tracked.
    """
    for quantity in quantities:
        if quantity.key in found:
            is_tracked = metrics is not None and quantity.metric is not None
            yield Number(
                key=f"{at}.{quantity.key}",
                value=found[quantity.key],
                quantity=quantity,
                metric=f"{metrics}{quantity.metric}" if is_tracked else None,
            )


OVER_PAIRS = Quantity(
    key="accuracy_over_pairs",
    title="accuracy over pairs",
    unit="share",
    meaning="Share of pairs in the right order, every pair with the same weight; 0.5 is chance.",
    metric="accuracy_over_pairs",
    minus="accuracy_over_pairs",
)
OVER_PROBLEMS = Quantity(
    key="accuracy_over_problems",
    title="accuracy over problems",
    unit="share",
    meaning="Share of pairs in the right order, every problem with the same weight.",
    metric="accuracy_over_problems",
    are_bounds_tracked=True,
    minus="accuracy_over_problems",
    minus_metric="accuracy",
)
AUC = Quantity(
    key="auc",
    title="AUC",
    unit="share",
    meaning="Area under the ROC curve of all samples: includes knowing which problems are easy.",
    metric="auc",
)
RESCUED = Quantity(
    key="rescued",
    title="rescued pairs",
    unit="share",
    meaning="Share of the pairs the best shortcut gets wrong that the head gets right.",
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
        unit="share",
        meaning=f"Pass rate if one of {n} candidates is picked, mean over all subsets of {n}.",
        metric=f"best_of_{n}",
    )


def accuracy_intervals(accuracies: Accuracies, confidence: float) -> dict[str, Interval]:
    """Get the intervals of both accuracies by key."""
    return {
        OVER_PAIRS.key: accuracies.over_pairs.interval(confidence),
        OVER_PROBLEMS.key: accuracies.over_problems.interval(confidence),
    }
