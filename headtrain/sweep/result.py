"""The result of a sweep: each point's accuracy on one half of valid, the winner's on the other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from featurize.arrays import Floats
from featurize.errors import CriticError
from featurize.io.files import read_json
from headtrain.metrics.bootstrap import Interval, ratio, resample_sums
from headtrain.metrics.pairwise import ScoredSamples, pairwise_accuracy, pairwise_counts
from headtrain.settings import EvaluationSettings
from headtrain.sweep.grid import point_name
from headtrain.sweep.groups import TrainedCandidate

RESULT_FILE, FIGURE_FILE, PAGE_FILE = "sweep.json", "accuracy.png", "sweep.html"
CURVE_FILE, CURVE_FIGURE = "curve.json", "curve.png"
WINNER_FOLDER = "winner"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Pairwise accuracy on one set of problems."""

    over_pairs: float
    over_problems: Interval
    num_problems: int


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """One point of the grid: its heads one by one, and averaged."""

    varied: Mapping[str, str]
    tensors: tuple[str, ...]
    seeds: tuple[int, ...]
    best_steps: tuple[int, ...]
    num_steps: int
    of_seeds: tuple[float | None, ...]
    """Accuracy over problems of each head on the choosing half; None if it diverged."""
    choose: Accuracy | None
    """Accuracy of the mean of the heads' values on the choosing half; None if all diverged."""
    holdout: Accuracy | None
    """The same on the train problems held out."""

    @property
    def name(self) -> str:
        """`features=mean.12 training.dropout=0.1`."""
        return point_name(self.varied)

    @property
    def accuracy(self) -> float:
        """The accuracy that selects the winner."""
        return self.choose.over_problems.estimate if self.choose else -1.0


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The whole sweep."""

    points: tuple[PointResult, ...]
    """The best on the choosing half first."""
    report: Accuracy
    """The winner, points[0], on the half that was not used to choose it."""
    num_heads: int
    seconds: float
    seconds_training: float
    confidence: float
    was_up_to_date: bool = False
    """The sweep had finished before and nothing was done."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of sweep.json."""
        fields = asdict(self)
        del fields["was_up_to_date"]
        return fields


Result = TypeVar("Result")


def read_result(kind: type[Result], path: Path) -> Result:
    """Read the JSON of a sweep or of its curve back.

    Raises:
        OSError: there is no such file.
        ValueError: it is the result of something else.
    """
    try:
        result: Result = TypeAdapter(kind).validate_python(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CriticError(
            f"{path}: not what a sweep writes there ({where}: {fault['msg']}); delete it and rerun"
        ) from error
    return result


def measure_point(
    heads: Sequence[TrainedCandidate], tensors: tuple[str, ...], evaluation: EvaluationSettings
) -> PointResult:
    """Measure the heads of a point one by one and together."""
    return PointResult(
        varied=dict(heads[0].candidate.point.varied),
        tensors=tensors,
        seeds=tuple(head.candidate.seed for head in heads),
        best_steps=tuple(head.best_step for head in heads),
        num_steps=max(head.num_steps for head in heads),
        of_seeds=tuple(
            pairwise_accuracy(pairwise_counts(head.choose)).over_problems if head.choose else None
            for head in heads
        ),
        choose=measure((head.choose for head in heads), evaluation),
        holdout=measure((head.holdout for head in heads), evaluation),
    )


def measure(
    scores: Iterable[ScoredSamples | None], evaluation: EvaluationSettings
) -> Accuracy | None:
    """Measure the mean of several heads' scores of the same samples; None without any scores."""
    given = [one for one in scores if one is not None]
    if not given:
        return None
    mean = np.mean([one.scores for one in given], axis=0)
    counts = pairwise_counts(given[0].with_scores(mean))
    return Accuracy(
        over_pairs=pairwise_accuracy(counts).over_pairs,
        over_problems=mean_interval(counts.shares, evaluation),
        num_problems=len(counts),
    )


def mean_interval(per_problem: Floats, evaluation: EvaluationSettings) -> Interval:
    """The mean over the problems with its interval."""
    columns = np.stack([per_problem, np.ones(len(per_problem))], axis=1)
    # NOTE: one seed, so that all points and curves are resampled by the same problems.
    sums = resample_sums(columns, rounds=evaluation.bootstrap_rounds, seed=0)
    return sums.apply(ratio(0, 1)).interval(evaluation.confidence)
