"""One split: its judges (the head and the shortcuts) on the same problems, with resamples."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurize.arrays import Floats, Ints, Strings
from headtrain.evaluation.numbers import (
    AUC,
    DECISION,
    DISTANCE,
    HEAD_NUMBERS,
    JUDGE,
    OVER_PAIRS,
    OVER_PROBLEMS,
    VALUES,
    HeadScores,
    Intervals,
    accuracy_intervals,
)
from headtrain.evaluation.results import HEAD, Counts, SplitResult
from headtrain.metrics.bootstrap import Accuracies, Resampled, resample_accuracies, resample_jointly
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairs import Pairs
from headtrain.metrics.pairwise import EvaluationError, PerProblem, ScoredSamples, pairwise_counts
from headtrain.metrics.values import auc
from headtrain.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitSamples:
    """The labelled samples of a split and what is known of them; every column is [samples]."""

    scored: ScoredSamples
    """With the scores of the head."""

    shortcuts: Mapping[str, Floats] = field(default_factory=dict)
    """The scores of other judges by name."""

    distances: Floats | None = None
    """Share of train samples that are nearer to train; None for train, or if it was not saved."""

    attributes: Mapping[str, Strings] = field(default_factory=dict)
    """difficulty, language, source: text or None."""

    outputs: Ints | None = None
    """Codes of the outputs: equal codes, equal outputs."""

    authors: Strings | None = None
    """Who wrote the outputs: text or None; None if no sample has an author."""

    minimal_pairs: Pairs | None = None
    """None if there were no texts to find them."""

    prefixes: Mapping[float, Floats] = field(default_factory=dict)
    """The head's scores of prefixes by their share of an output, the last one 1; may be empty."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """What could not be found out, and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSplit:
    """The result of a split, and the resamples for differences of splits and for details."""

    samples: SplitSamples
    result: SplitResult
    judges: Mapping[str, ScoredSamples]
    """The head first, then the shortcuts."""
    counts: Mapping[str, PerProblem]
    """By judge; rows are the problems with both labels."""
    accuracies: Mapping[str, Accuracies]
    resampled: Mapping[str, Resampled]
    """The head's numbers by key."""
    decision: Decision | None
    settings: EvaluationSettings
    stream: list[int]
    """Seed of the split's own resamples."""

    @property
    def head(self) -> ScoredSamples:
        """The samples with the head's scores."""
        return self.samples.scored


def measure_split(
    name: str,
    samples: SplitSamples,
    decision: Decision | None,
    settings: EvaluationSettings,
    seed: int,
) -> MeasuredSplit:
    """Measure the head's scores of one split, and the shortcuts on the same samples."""
    stream = [seed, *name.encode()]
    judges = {HEAD: samples.scored} | _shortcut_judges(name, samples)
    try:
        counts = {judge: pairwise_counts(scored) for judge, scored in judges.items()}
    except EvaluationError as error:
        raise EvaluationError(f"split {name!r}: {error}") from error
    accuracies = resample_accuracies(counts, rounds=settings.bootstrap_rounds, seed=stream)
    areas = resample_jointly(
        {judge: auc(scored) for judge, scored in judges.items()},
        rounds=settings.bootstrap_rounds,
        seed=stream,
    )
    numbers = _head_numbers(samples, decision, settings, stream)
    judged = {
        judge: {
            **accuracy_intervals(found, settings.confidence),
            AUC.key: areas[judge].interval(settings.confidence),
        }
        for judge, found in accuracies.items()
    }
    defined = {
        key: found.interval_if_defined(settings.confidence) for key, found in numbers.items()
    }
    return MeasuredSplit(
        samples=samples,
        result=SplitResult(
            counts=_counts(samples.scored, counts[HEAD]), judges=judged, numbers=defined
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
        decision=decision,
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


def _head_numbers(
    samples: SplitSamples,
    decision: Decision | None,
    settings: EvaluationSettings,
    stream: list[int],
) -> dict[str, Resampled]:
    """Resample the head's numbers: values, and the decision and distances if there are any."""
    head = HeadScores(scored=samples.scored, decision=decision, distances=samples.distances)
    groups = [
        VALUES,
        DECISION if decision is not None else (),
        DISTANCE if samples.distances is not None else (),
    ]
    numbers: dict[str, Resampled] = {}
    for metrics in filter(None, groups):
        found = resample_jointly(
            {metric.key: metric.of(head) for metric in metrics},
            rounds=settings.bootstrap_rounds,
            seed=stream,
        )
        numbers |= {
            metric.key: found[metric.key].recentred() if metric.is_recentred else found[metric.key]
            for metric in metrics
        }
    return numbers


def _shortcut_judges(split: str, samples: SplitSamples) -> dict[str, ScoredSamples]:
    judges = {}
    for name, scores in samples.shortcuts.items():
        if name == HEAD:
            raise EvaluationError(f"split {split!r}: a shortcut cannot be called {HEAD!r}")
        try:
            judges[name] = samples.scored.with_scores(scores)
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
        num_pairs=counts.total,
    )
