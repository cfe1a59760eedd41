"""Pairs whose lengths differ so much and no more, counted by ranks and not one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats, Ints
from headtrain.evaluation.slices.dominance import WaveletMatrix
from headtrain.metrics.accuracies import PairTally
from headtrain.metrics.pairwise import ScoredSamples

NUM_BINS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class PairWindows:
    """The pairs of a split, opened to look at those of some lengths only.

    Correct and incorrect samples are kept apart, either ordered by problem and length.
    """

    correct: Ints
    """Places of the correct samples in the split, [correct]."""
    incorrect: Ints
    """Places of the incorrect samples, ordered, [incorrect]."""
    problem: Ints
    """Dense code of each sample's problem, [samples]."""
    lengths: Ints
    """Length of each sample's output, [samples]."""
    num_problems: int

    @classmethod
    def of(cls, scored: ScoredSamples) -> "PairWindows":
        """Order the samples of a split; the scores do not matter."""
        names, problem = np.unique(scored.problem, return_inverse=True)
        lengths = scored.output_tokens
        incorrect = np.flatnonzero(~scored.is_correct)
        incorrect = incorrect[np.lexsort((lengths[incorrect], problem[incorrect]))]
        correct = np.flatnonzero(scored.is_correct)
        return cls(
            # NOTE: in order as well, so that neighbouring queries read neighbouring memory.
            correct=correct[np.lexsort((lengths[correct], problem[correct]))],
            incorrect=incorrect,
            problem=problem.astype(np.int64),
            lengths=lengths,
            num_problems=len(names),
        )

    def places(self, bounds: Ints) -> Ints:
        """How many incorrect samples come before (problem of a correct one, bound), [correct]."""
        step = int(max(self.lengths.max(initial=0), bounds.max(initial=0))) + 2
        keys = self.problem[self.incorrect] * step + self.lengths[self.incorrect]
        wanted = self.problem[self.correct] * step + np.clip(bounds, 0, step - 1)
        return np.searchsorted(keys, wanted, side="left").astype(np.int64)

    def tally(self, scored: ScoredSamples, windows: Sequence[tuple[Ints, Ints]]) -> list[PairTally]:
        """Wins and pairs of every problem, for incorrect lengths in [low, high) of each correct.

        low and high are [correct]; the pairs of a window are those whose incorrect sample is at
        least `low` and less than `high` tokens long.
        """
        ranks = ranks_within(self.problem, scored.scores)
        matrix = WaveletMatrix(ranks[self.incorrect])
        bound = ranks[self.correct]
        # NOTE: ranks are of both labels together, so a bound can exceed every incorrect rank.
        bound = np.minimum(bound, int(ranks[self.incorrect].max(initial=0)) + 1)
        above = np.minimum(ranks[self.correct] + 1, int(ranks[self.incorrect].max(initial=0)) + 1)
        tallies = []
        owner = self.problem[self.correct]
        for low, high in windows:
            begin = self.places(low)
            end = np.maximum(self.places(high), begin)
            below = matrix.count_below(begin, end, bound)
            not_above = matrix.count_below(begin, end, above)
            tallies.append(
                PairTally(
                    wins=np.asarray(
                        np.bincount(owner, (below + not_above) / 2, self.num_problems), np.float64
                    ),
                    num_pairs=np.bincount(owner, end - begin, self.num_problems).astype(np.int64),
                )
            )
        return tallies

    def differing_by(self, low: int | None, high: int | None) -> tuple[Ints, Ints]:
        """The window of pairs whose correct output is low <= difference < high tokens longer."""
        own = self.lengths[self.correct]
        longest = int(self.lengths.max(initial=0)) + 1
        return (
            np.zeros_like(own) if high is None else own - high + 1,
            np.full_like(own, longest) if low is None else own - low + 1,
        )

    def matched(self, tolerance: float) -> tuple[Ints, Ints]:
        """The window of pairs of which neither is more than `tolerance` longer than the other."""
        own = self.lengths[self.correct]
        # rounding of own / (1 + tolerance) must not lose a length that fits exactly
        low = np.ceil(own / (1 + tolerance) - 1e-9).astype(np.int64)
        return low, np.floor(own * (1 + tolerance) + 1e-9).astype(np.int64) + 1


def difference_edges(scored: ScoredSamples, *, num_bins: int = NUM_BINS, seed: int = 0) -> Ints:
    """Round edges [at most num_bins - 1] that part the pairs into about equal shares.

    They are quantiles of the length differences of pairs drawn at random, one a correct sample.
    """
    order = np.argsort(scored.problem, kind="stable")
    order = order[np.argsort(scored.is_correct[order], kind="stable")]  # incorrect ones first
    incorrect = order[: int((~scored.is_correct).sum())]
    correct = order[len(incorrect) :]
    begin = np.searchsorted(scored.problem[incorrect], scored.problem[correct], side="left")
    end = np.searchsorted(scored.problem[incorrect], scored.problem[correct], side="right")
    correct, begin, end = correct[end > begin], begin[end > begin], end[end > begin]
    drawn = np.random.default_rng(seed).random((16, len(correct)))  # 16 partners of each
    partner = incorrect[begin + (drawn * (end - begin)).astype(np.int64)]
    differences = (scored.output_tokens[correct] - scored.output_tokens[partner]).ravel()
    weights = np.tile(end - begin, 16)
    order = np.argsort(differences)
    share = np.cumsum(weights[order]) / weights.sum()
    wanted = np.arange(1, num_bins) / num_bins
    edges = differences[order][np.minimum(np.searchsorted(share, wanted), len(order) - 1)]
    return np.unique(edges)


def ranks_within(groups: Ints, values: Floats) -> Ints:
    """Rank of each value among the distinct values of its group from 0, [n]; ties share one."""
    order = np.argsort(values)
    order = order[np.argsort(groups[order], kind="stable")]
    group, value = groups[order], values[order]
    is_first = np.r_[True, group[1:] != group[:-1]]
    is_new = is_first | np.r_[True, value[1:] != value[:-1]]
    number = np.cumsum(is_new)
    starts = np.flatnonzero(is_first)
    sizes = np.diff(starts, append=len(groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = number - np.repeat(number[starts], sizes)
    return ranks
