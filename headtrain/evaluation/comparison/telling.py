"""The pairs that tell two heads apart most, found in one pass and at most one a problem."""

from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.mistakes import widest_pairs
from headtrain.metrics.pairwise import ScoredSamples


@dataclass(frozen=True, kw_only=True)
class TellingPair:
    """A pair that one head ranks rightly and the other wrongly."""

    correct: int
    """Place of its correct sample."""
    incorrect: int
    first_margin: float
    """Score of the correct minus that of the incorrect sample, in deviations of the head."""
    second_margin: float


def telling_pairs(first: ScoredSamples, second: ScoredSamples, limit: int) -> list[TellingPair]:
    """The pairs the first head gets right and the second wrong, the widest difference first.

    Either's scores are measured in their standard deviation within problems. A pair's difference
    of margins is then a difference of d = first - second at its two samples, so the widest pair
    of a problem is made of the extremes of d. Only those are looked at: a problem whose widest
    pair both heads rank alike is passed over.
    """
    scaled = [judge.with_scores(_scaled(judge)) for judge in (first, second)]
    difference = scaled[1].with_scores(scaled[1].scores - scaled[0].scores)
    widest = widest_pairs(difference, len(first))
    found = []
    for correct, incorrect in zip(widest.correct, widest.incorrect, strict=True):
        margins = [float(judge.scores[correct] - judge.scores[incorrect]) for judge in scaled]
        if margins[0] > 0 > margins[1]:
            found.append(
                TellingPair(
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
    """Scores over their standard deviation within problems, [n]."""
    _, problem = np.unique(scored.problem, return_inverse=True)
    means = np.bincount(problem, scored.scores) / np.bincount(problem)
    spread = float(np.sqrt(np.mean((scored.scores - means[problem]) ** 2)))
    return scored.scores / spread if spread else scored.scores
