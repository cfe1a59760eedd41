"""How far a number could have come out otherwise, had other problems been drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats
from headtrain.metrics.pairwise import ScoredSamples

ROUNDS_AT_ONCE = 32
"""Rounds summed by one matrix product."""

Statistic = Callable[[Floats], Floats]
"""From sums over problems [rounds, k] to one number a round [rounds]."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the bootstrap interval around it."""

    estimate: float
    low: float | None
    """None when there is a single problem: one problem says nothing about others."""

    high: float | None

    def __str__(self) -> str:
        """Format as `0.731 [0.690, 0.772]`, or without the bounds if there are none."""
        if self.low is None or self.high is None:
            return f"{self.estimate:.3f}"
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """A statistic of the data as they are, and of every resample of their problems."""

    estimate: float
    replicates: Floats  # [rounds], NaN where the statistic is undefined

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Return the difference; both need as many rounds, drawn independently or jointly."""
        return Resampled(
            estimate=self.estimate - other.estimate,
            replicates=self.replicates - other.replicates,
        )

    def recentred(self) -> "Resampled":
        """Return it with the replicates moved so that their mean is the estimate.

        For a statistic that resampling biases, such as a sum of absolute values: noise on top of
        the data's own noise makes it larger.
        """
        defined = self.replicates[np.isfinite(self.replicates)]
        if not defined.size:
            return self
        shift = self.estimate - float(defined.mean())
        return Resampled(
            estimate=self.estimate, replicates=np.maximum(self.replicates + shift, 0.0)
        )

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the percentile interval over the rounds in which the statistic is defined."""
        defined = self.replicates[np.isfinite(self.replicates)]
        if not defined.size:
            return Interval(estimate=self.estimate, low=None, high=None)
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(estimate=self.estimate, low=float(low), high=float(high))

    def interval_if_defined(self, confidence: float = 0.95) -> Interval | None:
        """Return the interval, or None where the data themselves give no number (0 / 0)."""
        return self.interval(confidence) if np.isfinite(self.estimate) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ResampledSums:
    """Sums over the problems, as they are and of every resample."""

    observed: Floats  # [1, k]
    rounds: Floats  # [rounds, k]

    def apply(self, statistic: Statistic) -> Resampled:
        """Evaluate a function of the sums on the data and on every resample."""
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0: a resample without a label
            return Resampled(
                estimate=float(statistic(self.observed)[0]),
                replicates=statistic(self.rounds),
            )


def resample_sums(per_problem: Floats, *, rounds: int, seed: int | list[int]) -> ResampledSums:
    """Draw as many problems as there are, with replacement, and sum their rows; rounds times.

    Samples of one problem are not independent, so whole problems are drawn (cluster bootstrap).
    per_problem is [problems, k]: sufficient statistics such as wins and pairs. Memory is
    O(problems + rounds * k), since a round needs no more than how often each problem was drawn.
    Equal seeds and problems give equal draws: judges of the same samples are then paired.
    """
    num_problems, num_columns = per_problem.shape
    sums = np.full((rounds, num_columns), np.nan)
    if num_problems > 1:  # one problem would be drawn every time: an interval of width zero
        generator = np.random.default_rng(seed)
        for start in range(0, rounds, ROUNDS_AT_ONCE):  # one product reads the columns once
            times = np.empty((min(ROUNDS_AT_ONCE, rounds - start), num_problems))
            for row in times:
                drawn = generator.integers(num_problems, size=num_problems)
                row[:] = np.bincount(drawn, minlength=num_problems)
            sums[start : start + len(times)] = times @ per_problem
    return ResampledSums(observed=per_problem.sum(axis=0, keepdims=True), rounds=sums)


class JointSums:
    """Statistics of sums over problems, each with columns of its own, resampled together."""

    def __init__(self) -> None:
        self._columns: list[Floats] = []
        self._statistics: dict[str, tuple[int, int, Statistic]] = {}
        self._width = 0

    def add(self, name: str, columns: Floats, statistic: Statistic) -> None:
        """Add a statistic of the sums of `columns` [problems, k]."""
        assert name not in self._statistics, name
        start, self._width = self._width, self._width + columns.shape[1]
        self._columns.append(columns)
        self._statistics[name] = (start, self._width, statistic)

    def resample(self, *, rounds: int, seed: int | list[int]) -> dict[str, Resampled]:
        """Every statistic by its name, in the same resamples of the problems."""
        sums = resample_sums(np.concatenate(self._columns, axis=1), rounds=rounds, seed=seed)
        return {
            name: sums.apply(_of_columns(start, end, statistic))
            for name, (start, end, statistic) in self._statistics.items()
        }


def _of_columns(start: int, end: int, statistic: Statistic) -> Statistic:
    return lambda sums: statistic(sums[:, start:end])


def ratio(numerator: int, denominator: int) -> Statistic:
    """Return the statistic that divides one column of the sums by another."""
    return lambda sums: np.asarray(sums[:, numerator] / sums[:, denominator], dtype=np.float64)


def value_sums(scored: ScoredSamples) -> Floats:
    """Return [problems, 4]: sum and count of the correct scores, sum and count of the incorrect."""
    _, code = np.unique(scored.problem, return_inverse=True)
    columns = []
    for has_label in (scored.is_correct, ~scored.is_correct):
        columns.append(np.bincount(code, weights=np.where(has_label, scored.scores, 0.0)))
        columns.append(np.bincount(code, weights=has_label))
    return np.stack(columns, axis=1)


def value_gap(sums: Floats) -> Floats:
    """Return mean_correct - mean_incorrect of summed `value_sums` rows, [rounds, 4] -> [rounds]."""
    return np.asarray(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], dtype=np.float64)
