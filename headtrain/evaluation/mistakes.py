"""The pairs that scores order most wrongly, at most one per problem."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints
from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.metrics.pairwise import ScoredSamples


@dataclass(frozen=True, kw_only=True)
class WidestPairs:
    """Pairs of different problems, the largest margin first."""

    correct: Ints
    """Index of each pair's correct sample, [pairs]."""
    incorrect: Ints
    """Index of its incorrect sample, [pairs]."""
    margin: npt.NDArray[np.float64]
    """Score of the incorrect sample minus that of the correct one, [pairs]; above 0."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A pair in the wrong order, with its texts."""

    problem_id: str
    instruction: str
    correct: str
    incorrect: str
    correct_score: float
    incorrect_score: float
    correct_probability: float | None
    incorrect_probability: float | None


def widest_pairs(scored: ScoredSamples, limit: int) -> WidestPairs:
    """Find the problems whose best incorrect sample scores highest above their worst correct one.

    The widest pair of a problem consists of its extremes, so pairs need not be enumerated.
    """
    problem, num_problems = scored.group, scored.num_groups
    order = np.lexsort((scored.scores, problem))  # ascending within each problem
    labels = scored.is_correct[order]
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


def worst_mistakes(evaluated: EvaluatedHead, split: str, limit: int) -> list[Mistake]:
    """Return the widest mistakes of the head with their texts; none without texts."""
    read, decision = evaluated.splits[split], evaluated.evaluation.decision
    if not read.texts.are_there:
        return []
    pairs = widest_pairs(read.scored, limit)
    scores = read.scored.scores
    probability = None if decision is None else decision.calibration.probability(scores)

    def of(index: int) -> float | None:
        return None if probability is None else float(probability[index])

    return [
        Mistake(
            problem_id=right.problem_id,
            instruction="\n\n".join(part for part in (right.instruction, right.input) if part),
            correct=right.output,
            incorrect=wrong.output,
            correct_score=float(scores[correct]),
            incorrect_score=float(scores[incorrect]),
            correct_probability=of(correct),
            incorrect_probability=of(incorrect),
        )
        for correct, incorrect, right, wrong in zip(
            pairs.correct,
            pairs.incorrect,
            read.texts.read(pairs.correct),
            read.texts.read(pairs.incorrect),
            strict=True,
        )
    ]
