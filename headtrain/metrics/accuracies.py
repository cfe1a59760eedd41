"""Pairwise accuracy of several judges on the same pairs, resampled together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.evaluation.results import PairResult
from headtrain.metrics.bootstrap import Resampled, ratio, resample_sums
from headtrain.metrics.pairwise import PerProblem


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTally:
    """Pairs won and pairs there are, of every problem; a problem may have none."""

    wins: Floats  # [p] a tie counts one half
    num_pairs: Ints  # [p]

    @classmethod
    def of(cls, counts: PerProblem) -> "PairTally":
        """The tally of all pairs."""
        return cls(wins=counts.wins, num_pairs=counts.num_pairs)

    @property
    def total(self) -> int:
        """Pairs of all problems."""
        return int(self.num_pairs.sum())

    @property
    def num_problems(self) -> int:
        """Problems with a pair."""
        return int((self.num_pairs > 0).sum())


class Accuracies(NamedTuple):
    """Accuracy of one judge, as it is and in every resample."""

    over_pairs: Resampled
    over_problems: Resampled

    def result(self, confidence: float) -> PairResult:
        """The numbers with their intervals."""
        return PairResult(
            accuracy_over_pairs=self.over_pairs.interval(confidence),
            accuracy_over_problems=self.over_problems.interval(confidence),
        )

    def minus(self, other: "Accuracies") -> "Accuracies":
        """The difference; both must come from one call of `resample_accuracies`."""
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
        assert np.array_equal(tally.num_pairs[kept], num_pairs), "judges of the same pairs"
        columns += [tally.wins[kept], tally.wins[kept] / num_pairs]
    sums = resample_sums(np.stack(columns, axis=1), rounds=rounds, seed=seed)
    return {
        judge: Accuracies(
            over_pairs=sums.apply(ratio(2 + 2 * index, 0)),
            over_problems=sums.apply(ratio(3 + 2 * index, 1)),
        )
        for index, judge in enumerate(tallies)
    }
