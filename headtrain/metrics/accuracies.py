"""Pairwise accuracy of several judges on the same pairs, resampled together."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from headtrain.metrics.bootstrap import Resampled, ratio, resample_sums
from headtrain.metrics.pairwise import PairTally


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
