"""One split: all judges on the same problems, and the resamples behind the intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

from featurize.arrays import Floats
from headtrain.evaluation.head_numbers import (
    DECISION,
    DISTANCE,
    HEAD_NUMBERS,
    VALUES,
    HeadScores,
    Metric,
)
from headtrain.evaluation.numbers import (
    AUC,
    JUDGE,
    OVER_PAIRS,
    OVER_PROBLEMS,
    Intervals,
    accuracy_intervals,
)
from headtrain.evaluation.results import HEAD, Counts, SplitResult
from headtrain.metrics.bootstrap import Accuracies, Resampled, resample_accuracies, resample_jointly
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import EvaluationError, PerProblem, ScoredSamples, pairwise_counts
from headtrain.metrics.values import auc
from headtrain.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSplit:
    """The result of a split, and the resamples for differences of splits and for details."""

    result: SplitResult
    judges: Mapping[str, ScoredSamples]
    """The head first, then the shortcuts."""
    counts: Mapping[str, PerProblem]
    """By judge; rows are the problems with both labels."""
    accuracies: Mapping[str, Accuracies]
    resampled: Mapping[str, Resampled]
    """The head's numbers by key."""
    settings: EvaluationSettings
    stream: list[int]
    """Seed of the split's own resamples."""

    @property
    def head(self) -> ScoredSamples:
        """The samples with the head's scores."""
        return self.judges[HEAD]


def measure_split(
    name: str,
    scored: ScoredSamples,
    *,
    shortcuts: Mapping[str, Floats],
    decision: Decision | None,
    settings: EvaluationSettings,
    seed: int,
    distances: Floats | None = None,
) -> MeasuredSplit:
    """Measure the head's scores of one split, and the shortcuts on the same samples."""
    stream = [seed, *name.encode()]
    judges = {HEAD: scored} | _shortcut_judges(name, scored, shortcuts)
    try:
        counts = {judge: pairwise_counts(samples) for judge, samples in judges.items()}
    except EvaluationError as error:
        raise EvaluationError(f"split {name!r}: {error}") from error
    accuracies = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=stream)
    areas = resample_jointly(
        {judge: auc(samples) for judge, samples in judges.items()},
        rounds=settings.bootstrap_rounds,
        seed=stream,
    )
    head = HeadScores(scored=scored, decision=decision, distances=distances)
    numbers = _resample(VALUES, head, settings, stream)
    if decision is not None:
        numbers |= _resample(DECISION, head, settings, stream)
    if distances is not None:
        numbers |= _resample(DISTANCE, head, settings, stream)
    return MeasuredSplit(
        result=SplitResult(
            counts=_counts(scored, counts[HEAD]),
            judges={
                judge: {
                    **accuracy_intervals(found, settings.confidence),
                    AUC.key: areas[judge].interval(settings.confidence),
                }
                for judge, found in accuracies.items()
            },
            numbers={
                key: found.interval_if_defined(settings.confidence)
                for key, found in numbers.items()
            },
        ),
        judges=judges,
        counts=counts,
        accuracies=accuracies,
        resampled={
            OVER_PAIRS.key: accuracies[HEAD].over_pairs,
            OVER_PROBLEMS.key: accuracies[HEAD].over_problems,
            AUC.key: areas[HEAD],
            **numbers,
        },
        settings=settings,
        stream=stream,
    )


def train_minus(train: MeasuredSplit, other: MeasuredSplit) -> Intervals:
    """Get the differences of the head's numbers, by key."""
    confidence = train.settings.confidence
    return {
        number.minus: (
            train.resampled[number.key] - other.resampled[number.key]
        ).interval_if_defined(confidence)
        for number in (*JUDGE, *HEAD_NUMBERS)
        if number.minus is not None
    }


def _resample(
    metrics: tuple[Metric, ...], head: HeadScores, settings: EvaluationSettings, stream: list[int]
) -> dict[str, Resampled]:
    found = resample_jointly(
        {metric.key: metric.of(head) for metric in metrics},
        rounds=settings.bootstrap_rounds,
        seed=stream,
    )
    return {
        metric.key: found[metric.key].recentred() if metric.is_recentred else found[metric.key]
        for metric in metrics
    }


def _shortcut_judges(
    split: str, scored: ScoredSamples, shortcuts: Mapping[str, Floats]
) -> dict[str, ScoredSamples]:
    judges = {}
    for name, scores in shortcuts.items():
        if name == HEAD:
            raise EvaluationError(f"split {split!r}: a shortcut cannot be called {HEAD!r}")
        try:
            judges[name] = scored.with_scores(scores)
        except EvaluationError as error:
            raise EvaluationError(f"split {split!r}, shortcut {name!r}: {error}") from error
    return judges


def _counts(scored: ScoredSamples, counts: PerProblem) -> Counts:
    num_compared = int((counts.num_correct + counts.num_incorrect).sum())
    return Counts(
        num_samples=len(scored),
        num_samples_left_out=len(scored) - num_compared,
        num_problems=len(counts),
        num_problems_left_out=scored.num_groups - len(counts),
        num_pairs=int(counts.num_pairs.sum()),
    )
