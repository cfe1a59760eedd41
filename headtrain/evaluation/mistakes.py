"""The pairs a judge gets most wrong, found in one pass and at most one a problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints
from featurize.data.records import Sample
from headtrain.metrics.pairwise import ScoredSamples


@dataclass(frozen=True, kw_only=True)
class WidestPairs:
    """Pairs of one problem each, the widest first."""

    correct: Ints
    """Place of each pair's correct sample, [pairs]."""
    incorrect: Ints
    """Place of its incorrect sample, [pairs]."""
    margin: npt.NDArray[np.float64]
    """Score of the incorrect minus that of the correct, [pairs]; above 0."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A pair ranked wrongly, with what it is about."""

    problem_id: str
    instruction: str
    correct: str
    incorrect: str
    correct_score: float
    incorrect_score: float
    correct_probability: float | None
    incorrect_probability: float | None


def widest_pairs(scored: ScoredSamples, limit: int) -> WidestPairs:
    """The problems whose best incorrect sample lies highest above their worst correct one.

    The widest pair of a problem is made of its extremes, so no pair has to be listed.
    """
    _, problem = np.unique(scored.problem, return_inverse=True)
    order = np.lexsort((scored.scores, problem))  # ascending within each problem
    labels = scored.is_correct[order]
    num_problems = int(problem.max()) + 1
    worst = np.full(num_problems, -1)
    top = np.full(num_problems, -1)
    correct, incorrect = order[labels], order[~labels]
    worst[problem[correct][::-1]] = correct[::-1]  # the last write wins: the lowest score
    top[problem[incorrect]] = incorrect  # and here the highest
    has_both = (worst >= 0) & (top >= 0)
    worst, top = worst[has_both], top[has_both]
    margin = scored.scores[top] - scored.scores[worst]
    chosen = np.argsort(-margin, kind="stable")
    chosen = chosen[margin[chosen] > 0][:limit]
    return WidestPairs(correct=worst[chosen], incorrect=top[chosen], margin=margin[chosen])


def describe_mistakes(
    pairs: WidestPairs,
    samples: Sequence[Sample],
    scored: ScoredSamples,
    probability: npt.NDArray[np.float64] | None,
) -> list[Mistake]:
    """Put scores and texts together; samples are the correct ones, then the incorrect ones."""
    half = len(pairs.correct)

    def of(places: Ints, number: int) -> float | None:
        return None if probability is None else float(probability[places[number]])

    return [
        Mistake(
            problem_id=samples[number].problem_id,
            instruction="\n\n".join(
                part for part in (samples[number].instruction, samples[number].input) if part
            ),
            correct=samples[number].output,
            incorrect=samples[half + number].output,
            correct_score=float(scored.scores[pairs.correct[number]]),
            incorrect_score=float(scored.scores[pairs.incorrect[number]]),
            correct_probability=of(pairs.correct, number),
            incorrect_probability=of(pairs.incorrect, number),
        )
        for number in range(half)
    ]
