"""The worst mistakes of a head with their texts."""

from dataclasses import dataclass

from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.metrics.pairs import widest_pairs


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
