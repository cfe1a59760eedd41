"""One split judged: every judge on the same problems, and the resamples behind the intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headtrain.evaluation.calibration import Decision, brier_score, expected_calibration_error
from headtrain.evaluation.intervals import (
    Resampled,
    ratio,
    resample_sums,
    value_gap,
    value_sums,
)
from headtrain.evaluation.metrics import (
    EvaluationError,
    PerProblem,
    ScoredSamples,
    auc,
    f1_at,
    pairwise_counts,
    value_means,
)
from headtrain.evaluation.results import (
    Counts,
    DecisionResult,
    JudgeResult,
    SplitResult,
    ValueResult,
)
from headtrain.settings import EvaluationSettings

Floats = npt.NDArray[np.float64]

HEAD = "head"
"""Name of the head among the judges."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSplit:
    """The result of a split, and those resamples that differences of splits are made of."""

    result: SplitResult
    accuracy_over_problems: Resampled
    gap: Resampled
    probability_gap: Resampled | None


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
    accuracies = _resample_accuracies(counts, settings.bootstrap_rounds, stream)
    values = _measure_values(scored, settings, stream)
    probability_gap, decided = None, None
    if decision is not None:
        probability = decision.calibration.probability(scored.scores)
        on_probability = _measure_values(scored.with_scores(probability), settings, stream)
        probability_gap = on_probability.gap
        decided = _decision_result(scored, decision, probability, on_probability.result)
    return MeasuredSplit(
        result=SplitResult(
            counts=_counts(scored, counts[HEAD]),
            judges={
                judge: JudgeResult(
                    accuracy_over_pairs=over_pairs.interval(settings.confidence),
                    accuracy_over_problems=over_problems.interval(settings.confidence),
                    auc=auc(judges[judge]),
                )
                for judge, (over_pairs, over_problems) in accuracies.items()
            },
            values=values.result,
            decision=decided,
        ),
        accuracy_over_problems=accuracies[HEAD].over_problems,
        gap=values.gap,
        probability_gap=probability_gap,
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


class _Accuracies(NamedTuple):
    over_pairs: Resampled
    over_problems: Resampled


def _resample_accuracies(
    counts: Mapping[str, PerProblem], rounds: int, seed: list[int]
) -> dict[str, _Accuracies]:
    """Resample the problems with both labels once, for all judges together."""
    num_pairs = next(iter(counts.values())).num_pairs  # the labels', so the same for every judge
    columns = [num_pairs.astype(np.float64), np.ones(len(num_pairs))]
    for judged in counts.values():
        columns += [judged.wins, judged.wins / num_pairs]
    sums = resample_sums(np.stack(columns, axis=1), rounds=rounds, seed=seed)
    return {
        judge: _Accuracies(
            over_pairs=sums.apply(ratio(2 + 2 * index, 0)),
            over_problems=sums.apply(ratio(3 + 2 * index, 1)),
        )
        for index, judge in enumerate(counts)
    }


def _counts(scored: ScoredSamples, counts: PerProblem) -> Counts:
    num_compared = int((counts.num_correct + counts.num_incorrect).sum())
    return Counts(
        num_samples=len(scored),
        num_samples_left_out=len(scored) - num_compared,
        num_problems=len(counts),
        num_problems_left_out=len(np.unique(scored.problem)) - len(counts),
        num_pairs=int(counts.num_pairs.sum()),
    )


class _Values(NamedTuple):
    result: ValueResult
    gap: Resampled


def _measure_values(
    scored: ScoredSamples, settings: EvaluationSettings, seed: list[int]
) -> _Values:
    sums = resample_sums(value_sums(scored), rounds=settings.bootstrap_rounds, seed=seed)
    gap = sums.apply(value_gap)
    means = value_means(scored)
    result = ValueResult(
        mean_correct=means.mean_correct,
        mean_incorrect=means.mean_incorrect,
        gap=gap.interval(settings.confidence),
    )
    return _Values(result=result, gap=gap)


def _decision_result(
    scored: ScoredSamples, decision: Decision, probability: Floats, values: ValueResult
) -> DecisionResult:
    labels = scored.is_correct
    return DecisionResult(
        probabilities=values,
        f1=f1_at(decision.f1_threshold, scored.scores, labels),
        f1_of_calling_all_correct=f1_at(-np.inf, scored.scores, labels),
        expected_calibration_error=expected_calibration_error(probability, labels),
        brier=brier_score(probability, labels),
    )
