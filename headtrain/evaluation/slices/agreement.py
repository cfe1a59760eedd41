"""How often two judges are right on the same pairs, counted by ranks and not pair by pair."""

from dataclasses import dataclass

import numpy as np

from featurize.arrays import Ints
from headtrain.evaluation.slices.dominance import WaveletMatrix
from headtrain.evaluation.slices.lengths import ranks_within
from headtrain.metrics.pairwise import ScoredSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Pairs of every problem that either judge ranks rightly; a tie is not right."""

    both: Ints  # [problems]
    first: Ints  # [problems]
    second: Ints  # [problems]
    num_pairs: Ints  # [problems]

    @property
    def only_first(self) -> Ints:
        """Pairs the first judge alone ranks rightly, [problems]."""
        return self.first - self.both

    @property
    def only_second(self) -> Ints:
        """Pairs the second judge alone ranks rightly, [problems]."""
        return self.second - self.both


def count_agreement(first: ScoredSamples, second: ScoredSamples) -> Agreement:
    """Compare two judges of the same samples.

    Both are right on (correct, incorrect) when the incorrect sample lies below the correct one in
    either's ranks: a count of points below two thresholds.
    """
    names, problem = np.unique(first.problem, return_inverse=True)
    problem, labels = problem.astype(np.int64), first.is_correct
    ranks = [ranks_within(problem, judge.scores) for judge in (first, second)]
    incorrect = np.flatnonzero(~labels)
    incorrect = incorrect[np.lexsort((ranks[0][incorrect], problem[incorrect]))]
    matrix = WaveletMatrix(ranks[1][incorrect])
    step = int(ranks[0].max()) + 2
    keys = problem[incorrect] * step + ranks[0][incorrect]  # ascending
    correct = np.flatnonzero(labels)
    correct = correct[np.lexsort((ranks[0][correct], problem[correct]))]  # queries side by side
    own, rank = problem[correct], [judge[correct] for judge in ranks]

    begin, middle, end = (
        np.searchsorted(keys, own * step + bound, side="left").astype(np.int64)
        for bound in (np.zeros_like(own), rank[0], np.full_like(own, step - 1))
    )
    bound = np.minimum(rank[1], int(ranks[1][incorrect].max(initial=0)) + 1)

    def per_problem(found: Ints) -> Ints:
        return np.bincount(own, found, len(names)).astype(np.int64)

    return Agreement(
        both=per_problem(matrix.count_below(begin, middle, bound)),
        first=per_problem(middle - begin),
        second=per_problem(matrix.count_below(begin, end, bound)),
        num_pairs=per_problem(end - begin),
    )
