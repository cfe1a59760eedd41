"""What a sweep found: every point judged on the choosing half, the winner on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter

from featurize.arrays import Floats
from headtrain.features.inputs import LabelledSamples
from headtrain.metrics.bootstrap import Interval, ratio, resample_sums
from headtrain.metrics.pairwise import PerProblem, pairwise_accuracy
from headtrain.sweep.points import JudgedSamples, SweepPoint
from headtrain.sweep.trained import Trained
from headtrain.training.validation import count_wins


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Pairwise accuracy on one set of problems."""

    over_pairs: float
    over_problems: Interval
    num_problems: int


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """One point of the grid: its seeds one by one, and averaged."""

    varied: Mapping[str, str]
    tensors: tuple[str, ...]
    seeds: tuple[int, ...]
    best_steps: tuple[int, ...]
    num_steps: int
    of_seeds: tuple[float | None, ...]
    """Accuracy over problems of each head, on the choosing half; None where it diverged."""
    choose: Judgement | None
    """The mean of the heads' values, on the half that chooses; None when all diverged."""
    holdout: Judgement | None
    """The same on the train problems held out."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The whole sweep."""

    points: tuple[PointResult, ...]
    """The best on the choosing half first."""
    report: Judgement
    """The winner, points[0], on the half that had no say in the choice."""
    num_heads: int
    seconds: float
    seconds_training: float
    confidence: float
    was_up_to_date: bool = False
    """The sweep had finished before and nothing was done."""

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, for JSON: what was found."""
        fields = asdict(self)
        del fields["was_up_to_date"]
        return fields

    @classmethod
    def from_dict(cls, fields: Any) -> Self:
        """The result that `to_dict` gave.

        Raises:
            ValueError: it is not one.
        """
        found: Self = TypeAdapter(cls).validate_python(fields)
        return found


def judge_point(
    point: SweepPoint,
    heads: Sequence[Trained],
    tensors: tuple[str, ...],
    judged: JudgedSamples,
    *,
    rounds: int,
    confidence: float,
) -> PointResult:
    """Judge the heads of a point by themselves and together."""
    whole = [head for head in heads if head.choose is not None]
    holdouts = [head.holdout for head in whole if head.holdout is not None]
    options = {"rounds": rounds, "confidence": confidence}
    return PointResult(
        varied=dict(point.varied),
        tensors=tensors,
        seeds=tuple(head.candidate.seed for head in heads),
        best_steps=tuple(head.best_step for head in heads),
        num_steps=max(head.num_steps for head in heads),
        of_seeds=tuple(
            None
            if head.choose is None
            else pairwise_accuracy(count_wins(judged.choose, head.choose)).over_problems
            for head in heads
        ),
        choose=judge(
            judged.choose, [head.choose for head in whole if head.choose is not None], **options
        ),
        holdout=judge(judged.holdout, holdouts, **options) if judged.holdout else None,
    )


def judge(
    samples: LabelledSamples, values: Sequence[Floats], *, rounds: float, confidence: float
) -> Judgement | None:
    """Accuracy of the mean of several heads' values; None without any."""
    if not values:
        return None
    counts = count_wins(samples, np.mean(values, axis=0))
    return Judgement(
        over_pairs=pairwise_accuracy(counts).over_pairs,
        over_problems=_interval(counts, int(rounds), confidence),
        num_problems=len(counts),
    )


def _interval(counts: PerProblem, rounds: int, confidence: float) -> Interval:
    per_problem = np.stack([counts.wins / counts.num_pairs, np.ones(len(counts))], axis=1)
    # NOTE: one seed for all points: their resamples are then of the same problems.
    sums = resample_sums(per_problem, rounds=rounds, seed=0)
    return sums.apply(ratio(0, 1)).interval(confidence)
