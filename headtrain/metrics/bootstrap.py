"""Cluster bootstrap: intervals from resampling whole problems, of several judges together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featurize.arrays import Floats
from headtrain.metrics.pairwise import PairTally

ROUNDS_AT_ONCE = 32
"""Rounds summed by one matrix product."""

Statistic = Callable[[Floats], Floats]
"""A function of sums over problems, [rounds, k] -> [rounds]."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the bootstrap interval around it."""

    estimate: float
    low: float | None
    """None with a single problem, which cannot be resampled."""

    high: float | None

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval reaches below and above the estimate, 0 where it excludes it."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return max(0.0, self.estimate - self.low), max(0.0, self.high - self.estimate)

    def __str__(self) -> str:
        """Format as `0.731 [0.690, 0.772]`, or without the bounds if there are none."""
        if self.low is None or self.high is None:
            return f"{self.estimate:.3f}"
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """A statistic of the data and of every resample of their problems."""

    estimate: float
    replicates: Floats  # [rounds], NaN if the statistic is undefined

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Subtract; both need the same number of rounds, drawn independently or jointly."""
        return Resampled(
            estimate=self.estimate - other.estimate,
            replicates=self.replicates - other.replicates,
        )

    def recentred(self) -> "Resampled":
        """Shift the replicates so that their mean is the estimate.

        For a statistic that resampling biases upwards, such as a sum of absolute values.
        """
        defined = self.replicates[np.isfinite(self.replicates)]
        if not defined.size:
            return self
        shift = self.estimate - float(defined.mean())
        return Resampled(
            estimate=self.estimate, replicates=np.maximum(self.replicates + shift, 0.0)
        )

    def interval(self, confidence: float = 0.95) -> Interval:
        """Get the percentile interval over the rounds where the statistic is defined."""
        defined = self.replicates[np.isfinite(self.replicates)]
        if not defined.size:
            return Interval(estimate=self.estimate, low=None, high=None)
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(estimate=self.estimate, low=float(low), high=float(high))

    def interval_if_defined(self, confidence: float = 0.95) -> Interval | None:
        """Get the interval, or None if the statistic of the data is undefined (0 / 0)."""
        return self.interval(confidence) if np.isfinite(self.estimate) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ResampledSums:
    """Sums over the problems of the data and of every resample."""

    observed: Floats  # [1, k]
    rounds: Floats  # [rounds, k]

    def part(self, start: int, end: int) -> "ResampledSums":
        """Select the sums of some columns."""
        return ResampledSums(observed=self.observed[:, start:end], rounds=self.rounds[:, start:end])

    def apply(self, statistic: Statistic) -> Resampled:
        """Evaluate a function of the sums on the data and on every resample."""
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a resample without one label
            return Resampled(
                estimate=float(statistic(self.observed)[0]),
                replicates=statistic(self.rounds),
            )


def resample_sums(per_problem: Floats, *, rounds: int, seed: int | list[int]) -> ResampledSums:
    """Draw the problems with replacement and sum their rows, `rounds` times (cluster bootstrap).

    Whole problems are drawn because samples of one problem are not independent.
    per_problem is [problems, k]: sufficient statistics such as wins and pairs. Memory is
    O(problems + rounds * k), because a round only needs how often each problem was drawn.
    Equal seeds and problems give equal draws, so judges of the same samples are paired.
    """
    num_problems, num_columns = per_problem.shape
    sums = np.full((rounds, num_columns), np.nan)
    if num_problems > 1:  # a single problem would give an interval of width zero
        generator = np.random.default_rng(seed)
        for start in range(0, rounds, ROUNDS_AT_ONCE):  # a product reads the columns once
            times = np.empty((min(ROUNDS_AT_ONCE, rounds - start), num_problems))
            for row in times:
                drawn = generator.integers(num_problems, size=num_problems)
                row[:] = np.bincount(drawn, minlength=num_problems)
            sums[start : start + len(times)] = times @ per_problem
    return ResampledSums(observed=per_problem.sum(axis=0, keepdims=True), rounds=sums)


class SumStatistic(NamedTuple):
    """A metric as a function of sums over problems, so that it can be resampled."""

    columns: Floats
    """[problems, k] sufficient statistics of each problem"""
    statistic: Statistic

    @property
    def value(self) -> float:
        """The metric of the data."""
        return float(self.statistic(self.columns.sum(axis=0, keepdims=True))[0])


def resample_jointly(
    metrics: Mapping[str, SumStatistic], *, rounds: int, seed: int | list[int]
) -> dict[str, Resampled]:
    """Evaluate all metrics in the same resamples of the problems."""
    columns = np.concatenate([metric.columns for metric in metrics.values()], axis=1)
    sums = resample_sums(columns, rounds=rounds, seed=seed)
    found, start = {}, 0
    for name, (own, statistic) in metrics.items():
        found[name] = sums.part(start, start + own.shape[1]).apply(statistic)
        start += own.shape[1]
    return found


def ratio(numerator: int, denominator: int) -> Statistic:
    """Make the statistic that divides one column of the sums by another."""
    return lambda sums: np.asarray(sums[:, numerator] / sums[:, denominator], dtype=np.float64)


class Accuracies(NamedTuple):
    """Accuracy of one judge: the estimate and every resample."""

    over_pairs: Resampled
    over_problems: Resampled

    def minus(self, other: "Accuracies") -> "Accuracies":
        """Subtract another judge's; both must come from one call of `resample_accuracies`."""
        return Accuracies(
            self.over_pairs - other.over_pairs, self.over_problems - other.over_problems
        )


def resample_accuracies(
    tallies: Mapping[str, PairTally], *, rounds: int, seed: int | list[int]
) -> dict[str, Accuracies]:
    """Resample the problems that have pairs, once for all judges: their accuracies are paired."""
    num_pairs = next(iter(tallies.values())).num_pairs
    kept = num_pairs > 0
    num_pairs = num_pairs[kept]
    columns = [num_pairs.astype(np.float64), np.ones(len(num_pairs))]
    for tally in tallies.values():
        assert np.array_equal(tally.num_pairs[kept], num_pairs), "judges of different pairs"
        columns += [tally.wins[kept], tally.wins[kept] / num_pairs]
    sums = resample_sums(np.stack(columns, axis=1), rounds=rounds, seed=seed)
    return {
        judge: Accuracies(
            over_pairs=sums.apply(ratio(2 + 2 * index, 0)),
            over_problems=sums.apply(ratio(3 + 2 * index, 1)),
        )
        for index, judge in enumerate(tallies)
    }
