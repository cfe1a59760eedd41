"""One split judged: every judge on the same problems, and the resamples behind the intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featurize.arrays import Floats
from headtrain.evaluation.results import Counts, JudgeResult, SplitResult
from headtrain.metrics.accuracies import Accuracies, PairTally, resample_accuracies
from headtrain.metrics.bootstrap import JointSums, Resampled
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import (
    EvaluationError,
    PerProblem,
    ScoredSamples,
    pairwise_counts,
)
from headtrain.metrics.values import add_auc, measure_decision, measure_values
from headtrain.settings import EvaluationSettings

HEAD = "head"
"""Name of the head among the judges."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSplit:
    """The result of a split, and what differences of splits and closer looks are made of."""

    result: SplitResult
    judges: Mapping[str, ScoredSamples]
    """The head first, then the shortcuts."""
    tallies: Mapping[str, PairTally]
    """By judge; rows are the problems with both labels."""
    accuracies: Mapping[str, Accuracies]
    gap: Resampled
    probability_gap: Resampled | None
    stream: list[int]
    """Seed of the split's own resamples."""


def measure_split(
    name: str,
    scored: ScoredSamples,
    *,
    shortcuts: Mapping[str, Floats],
    decision: Decision | None,
    settings: EvaluationSettings,
    seed: int,
) -> MeasuredSplit:
    """Judge the head's scores of one split, and those of the shortcuts on the same samples."""
    stream = [seed, *name.encode()]
    judges = {HEAD: scored} | _shortcut_judges(name, scored, shortcuts)
    try:
        counts = {judge: pairwise_counts(samples) for judge, samples in judges.items()}
    except EvaluationError as error:
        raise EvaluationError(f"split {name!r}: {error}") from error
    tallies = {judge: PairTally.of(counted) for judge, counted in counts.items()}
    accuracies = resample_accuracies(tallies, rounds=settings.bootstrap_rounds, seed=stream)
    areas = JointSums()
    for judge, samples in judges.items():
        add_auc(areas, judge, samples)
    auc = areas.resample(rounds=settings.bootstrap_rounds, seed=stream)
    values = measure_values(scored, settings, stream)
    decided = None if decision is None else measure_decision(scored, decision, settings, stream)
    return MeasuredSplit(
        result=SplitResult(
            counts=_counts(scored, counts[HEAD]),
            judges={
                judge: JudgeResult(
                    accuracy_over_pairs=found.over_pairs.interval(settings.confidence),
                    accuracy_over_problems=found.over_problems.interval(settings.confidence),
                    auc=auc[judge].interval(settings.confidence),
                )
                for judge, found in accuracies.items()
            },
            values=values.values,
            variance=values.variance,
            decision=None if decided is None else decided.result,
        ),
        judges=judges,
        tallies=tallies,
        accuracies=accuracies,
        gap=values.gap,
        probability_gap=None if decided is None else decided.probability_gap,
        stream=stream,
    )


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
        num_problems_left_out=len(np.unique(scored.problem)) - len(counts),
        num_pairs=int(counts.num_pairs.sum()),
    )
