"""The problems of a split one by one: how a head ranks their outputs, the worst first."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from featurize.arrays import Floats, Ints
from featurize.data.records import Sample
from headtrain.evaluation.evaluate import EvaluatedHead, ReadSplit
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairs import widest_pairs
from headtrain.metrics.pairwise import EvaluationError, pairwise_counts

MOST_TEXTS = 20
"""Outputs of one problem whose text is read: the best ones and the pair in the wrong order."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One output of a problem with the head's opinion."""

    rank: int
    """1 is the highest score."""
    task_id: str
    is_correct: bool
    score: float
    probability: float | None
    """Of being correct; None without a calibration."""
    output: str | None
    """None if the text is not shown (see MOST_TEXTS)."""
    along: Mapping[float, float] = field(default_factory=dict)
    """Value of each prefix by its share of the output, ascending, the last one 1; empty if the
    store has no segments to compute it from."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem with both labels, and all its outputs."""

    problem_id: str
    instruction: str
    accuracy: float
    """Share of its pairs in the right order; a tie counts one half."""
    num_pairs: int
    candidates: tuple[Candidate, ...]
    """The highest score first."""
    wrong: tuple[Candidate, Candidate] | None
    """The lowest correct and the highest incorrect output, if they are in the wrong order."""

    @cached_property
    def bounds_along(self) -> tuple[float, float]:
        """Lowest and highest value along any of its outputs; 0 and 0 without any."""
        values = [value for one in self.candidates for value in one.along.values()]
        return min(values, default=0.0), max(values, default=0.0)

    @property
    def num_not_shown(self) -> int:
        """Outputs without their text."""
        return sum(candidate.output is None for candidate in self.candidates)


def read_problems(
    evaluated: EvaluatedHead, split: str, limit: int | None = None
) -> tuple[Problem, ...]:
    """Read the `limit` worst problems with both labels (default: all); none without texts.

    The lowest accuracy comes first, and of equal accuracies the widest pair in the wrong order.
    """
    read = evaluated.splits[split]
    if not read.texts.are_there:
        return ()
    ranked = _rank(read)[:limit]
    shown = {place for one in ranked for place in one.shown()}
    return _read(read, ranked, shown, evaluated.evaluation.decision)


def find_problem(
    read: ReadSplit, ids: Sequence[str], decision: Decision | None, problem_id: str | None = None
) -> Problem:
    """Read one problem with the texts of its best and worst output.

    `ids` are the problem ids, [labelled samples]. Default: the problem of median accuracy.

    Raises:
        EvaluationError: the split has no such problem with both labels, or its texts are gone.
    """
    if not read.texts.are_there:
        raise EvaluationError(
            "the dataset of these features is gone or has changed, so there are no texts to show: "
            "restore it, or run `critic featurize` again"
        )
    ranked = _rank(read)
    found = [one for one in ranked if problem_id is None or ids[one.places[0]] == problem_id]
    if not found:
        raise _no_problem(problem_id, sorted({ids[one.places[0]] for one in ranked}))
    one = found[len(found) // 2]
    [problem] = _read(read, [one], {int(one.places[0]), int(one.places[-1])}, decision)
    return problem


def _no_problem(wanted: str | None, known: Sequence[str]) -> EvaluationError:
    if wanted is None:
        return EvaluationError("no problem has outputs of both labels: choose another --split")
    near = difflib.get_close_matches(wanted, known, n=3) or known[:3]
    return EvaluationError(
        f"no problem {wanted!r} with outputs of both labels; problems are {', '.join(near)}"
    )


def _read(
    read: ReadSplit, ranked: Sequence["_Ranked"], shown: Collection[int], decision: Decision | None
) -> tuple[Problem, ...]:
    """Read the texts of the samples that are shown, and make the problems."""
    places = np.array(sorted(shown), np.int64)
    texts = dict(zip(places.tolist(), read.texts.read(places), strict=True))
    scores = read.scored.scores
    probabilities = None if decision is None else decision.calibration.probability(scores)
    return tuple(_to_problem(one, read, texts, probabilities) for one in ranked)


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """The samples of a problem as indices, the highest score first."""

    places: Ints
    accuracy: float
    num_pairs: int
    wrong: tuple[int, int] | None
    """Correct and incorrect sample in the wrong order."""

    def shown(self) -> list[int]:
        """The samples whose text is read."""
        wrong = list(self.wrong or ())
        best = [place for place in self.places.tolist() if place not in wrong]
        return [*wrong, *best[: MOST_TEXTS - len(wrong)]]

    def margin(self, scores: Floats) -> float:
        """Score of the wrong pair's correct sample minus that of its incorrect one, else 0."""
        return float(scores[self.wrong[0]] - scores[self.wrong[1]]) if self.wrong else 0.0


def _rank(read: ReadSplit) -> list[_Ranked]:
    """Rank the problems with pairs, the worst first, and the samples within each."""
    scored = read.scored
    counts = pairwise_counts(scored)
    wrong = {
        int(scored.problem[correct]): (int(correct), int(incorrect))
        for correct, incorrect in zip(*widest_pairs(scored, len(scored)), strict=True)
    }
    order = np.lexsort((-scored.scores, scored.problem))
    by_problem = np.split(order, np.flatnonzero(np.diff(scored.problem[order])) + 1)
    places = {int(scored.problem[own[0]]): own for own in by_problem}
    columns = (counts.problem.tolist(), counts.wins.tolist(), counts.num_pairs.tolist())
    found = [
        _Ranked(
            places=places[problem],
            accuracy=wins / num_pairs,
            num_pairs=num_pairs,
            wrong=wrong.get(problem),
        )
        for problem, wins, num_pairs in zip(*columns, strict=True)
    ]
    return sorted(found, key=lambda one: (one.accuracy, one.margin(scored.scores)))


def _to_problem(
    ranked: _Ranked, read: ReadSplit, texts: Mapping[int, Sample], probabilities: Floats | None
) -> Problem:
    scored, task_ids = read.scored, read.texts.task_ids

    def of(place: int, rank: int) -> Candidate:
        return Candidate(
            rank=rank,
            task_id=str(task_ids[place]),
            is_correct=bool(scored.is_correct[place]),
            score=float(scored.scores[place]),
            probability=None if probabilities is None else float(probabilities[place]),
            output=texts[place].output if place in texts else None,
            along={share: float(values[place]) for share, values in read.prefixes.items()},
        )

    candidates = {place: of(place, rank) for rank, place in enumerate(ranked.places.tolist(), 1)}
    first = next(texts[place] for place in candidates if place in texts)
    return Problem(
        problem_id=first.problem_id,
        instruction="\n\n".join(part for part in (first.instruction, first.input) if part),
        accuracy=ranked.accuracy,
        num_pairs=ranked.num_pairs,
        candidates=tuple(candidates.values()),
        wrong=(candidates[ranked.wrong[0]], candidates[ranked.wrong[1]]) if ranked.wrong else None,
    )
