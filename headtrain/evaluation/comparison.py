"""Comparison of two heads on the same pairs: which is better, how surely, where they disagree."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.numbers import accuracy_intervals
from headtrain.evaluation.results import Accuracy
from headtrain.metrics.bootstrap import resample_accuracies
from headtrain.metrics.pairs import McNemar, count_agreement, mcnemar, widest_pairs
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings

FIRST, SECOND = "A", "B"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A pair that one head orders correctly and the other does not."""

    correct: int
    """Index of its correct sample."""
    incorrect: int
    first_margin: float
    """Score of the correct minus that of the incorrect sample, in the head's own deviations."""
    second_margin: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Accuracies of two heads, their difference and their disagreements."""

    num_samples: int
    num_pairs: int
    num_problems: int
    heads: Mapping[str, Accuracy]
    """Of A and B."""

    difference: Accuracy
    """A minus B, over the same resamples of the problems."""

    num_both_right: int
    num_both_wrong: int
    """Pairs that neither orders correctly; a tie is not correct."""

    mcnemar: McNemar
    problems_won: int
    """Problems where A has the higher accuracy."""

    problems_lost: int
    wins: tuple[Disagreement, ...]
    """Pairs that A orders correctly and B does not, the widest first."""

    losses: tuple[Disagreement, ...]

    def to_dict(self) -> dict[str, object]:
        """Convert to nested dicts of plain values, for JSON."""
        return {**asdict(self), "mcnemar": self.mcnemar._asdict()}


def compare(
    first: ScoredSamples,
    second: ScoredSamples,
    settings: EvaluationSettings,
    *,
    seed: int = 0,
    num_disagreements: int = 10,
) -> Comparison:
    """Compare two judges of the same samples; half of the disagreements are wins, half losses.

    Raises:
        EvaluationError: the samples differ, or no problem has both labels.
    """
    is_same = np.array_equal(first.problem, second.problem) and np.array_equal(
        first.is_correct, second.is_correct
    )
    if not is_same:
        raise EvaluationError("the two heads must score the same samples in the same order")
    counts = {FIRST: pairwise_counts(first), SECOND: pairwise_counts(second)}
    found = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=seed)
    agreement = count_agreement(first, second)
    both, only_first, only_second, num_pairs = (
        int(column.sum())
        for column in (
            agreement.both,
            agreement.only_first,
            agreement.only_second,
            agreement.num_pairs,
        )
    )
    ahead = counts[FIRST].wins - counts[SECOND].wins  # [problems] of the same number of pairs
    confidence = settings.confidence
    return Comparison(
        num_samples=len(first),
        num_pairs=num_pairs,
        num_problems=len(counts[FIRST]),
        heads={name: accuracy_intervals(one, confidence) for name, one in found.items()},
        difference=accuracy_intervals(found[FIRST].minus(found[SECOND]), confidence),
        num_both_right=both,
        num_both_wrong=num_pairs - both - only_first - only_second,
        mcnemar=mcnemar(only_first, only_second),
        problems_won=int((ahead > 0).sum()),
        problems_lost=int((ahead < 0).sum()),
        wins=tuple(find_disagreements(first, second, (num_disagreements + 1) // 2)),
        losses=tuple(find_disagreements(second, first, num_disagreements // 2)),
    )


def find_disagreements(
    first: ScoredSamples, second: ScoredSamples, limit: int
) -> list[Disagreement]:
    """Find pairs that the first head gets right and the second wrong, the widest difference first.

    Scores are scaled by their standard deviation within problems. A pair's difference of margins
    is then a difference of d = first - second at its two samples, so the widest pair of a problem
    consists of the extremes of d. Only these are considered, at most one per problem.
    """
    scaled = [judge.with_scores(_scaled(judge)) for judge in (first, second)]
    difference = scaled[1].with_scores(scaled[1].scores - scaled[0].scores)
    widest = widest_pairs(difference, len(first))
    found = []
    for correct, incorrect in zip(widest.correct, widest.incorrect, strict=True):
        margins = [float(judge.scores[correct] - judge.scores[incorrect]) for judge in scaled]
        if margins[0] > 0 > margins[1]:
            found.append(
                Disagreement(
                    correct=int(correct),
                    incorrect=int(incorrect),
                    first_margin=margins[0],
                    second_margin=margins[1],
                )
            )
        if len(found) == limit:
            break
    return found


def _scaled(scored: ScoredSamples) -> Floats:
    """Scores divided by their standard deviation within problems, [n]."""
    means = np.bincount(scored.group, scored.scores) / np.bincount(scored.group)
    spread = float(np.sqrt(np.mean((scored.scores - means[scored.group]) ** 2)))
    return scored.scores / spread if spread else scored.scores
