"""Evaluations and sweeps as tables for the terminal; the page shows the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from headtrain.evaluation.results import (
    DecisionResult,
    Evaluation,
    PairResult,
    SplitResult,
    TrainDifference,
)
from headtrain.evaluation.shortcuts.verdict import verdict_sentence
from headtrain.metrics.bootstrap import Interval
from headtrain.sweep.result import Accuracy, PointResult, SweepResult

MAX_POINTS = 30
"""Points of a sweep in its table; sweep.json has all."""


@dataclass(frozen=True, kw_only=True)
class ValueRow:
    """One number of the head on every split."""

    name: str
    splits: tuple[Interval | None, ...]
    difference: Interval | None
    """Train minus the evaluated split; None for numbers without one."""


def judges_table(evaluation: Evaluation, split: str) -> Table:
    """Pairwise accuracy of the head, the shortcuts and the controls on one split."""
    counts = evaluation.splits[split].counts
    level = f"{evaluation.confidence:.0%}"
    table = _table(
        f"{split}: {counts.num_pairs:,} pairs of {counts.num_problems:,} problems"
        f" ({counts.num_samples:,} samples, {counts.num_samples_left_out:,} in no pair)",
        "scored by",
        *(f"accuracy over pairs ({level})", f"over problems ({level})", "AUC"),
    )

    def add(name: str, found: PairResult, auc: str, style: str | None) -> None:
        accuracies = (found.accuracy_over_pairs, found.accuracy_over_problems)
        table.add_row(name.replace("_", " "), *map(str, accuracies), auc, style=style)

    for name, judge in evaluation.splits[split].judges.items():
        add(name, judge, f"{judge.auc.estimate:.3f}", "bold" if name == "head" else None)
    details = evaluation.details.get(split)
    for name, control in details.controls.items() if details else ():
        state = "must be 0.5" if control.holds else "must be 0.5 and IS NOT"
        add(f"{name} ({state})", control.result, "-", "dim" if control.holds else "red")
    return table


def values_table(evaluation: Evaluation, split: str) -> Table:
    """The head's values, probabilities and decisions on every split, and train minus `split`."""
    names = [name.replace("_", " ") for name in evaluation.splits]
    has_difference = split in evaluation.train_minus
    table = _table(
        "values of the head", "", *names, *([f"train - {split}"] if has_difference else [])
    )
    for row in value_rows(evaluation, split):
        last = [str(row.difference or "")] if has_difference else []
        table.add_row(row.name, *(str(value or "-") for value in row.splits), *last)
    return table


def value_rows(evaluation: Evaluation, split: str) -> list[ValueRow]:
    """Rows of the table of values; those about probabilities only with a calibration."""
    difference = evaluation.train_minus.get(split)
    return [
        ValueRow(
            name=name,
            splits=tuple(map(of_split, evaluation.splits.values())),
            difference=None if difference is None or of is None else of(difference),
        )
        for name, of_split, of in [
            *_VALUES,
            *(_DECISIONS if evaluation.decision is not None else ()),
            *_VARIANCES,
        ]
    ]


_Spec = tuple[
    str,
    Callable[[SplitResult], Interval | None],
    Callable[[TrainDifference], Interval | None] | None,
]


def _decision(result: SplitResult) -> DecisionResult:
    assert result.decision is not None, "with a calibration every split has decisions"
    return result.decision


_VALUES: tuple[_Spec, ...] = (
    (
        "accuracy over pairs",
        lambda result: result.judges["head"].accuracy_over_pairs,
        lambda difference: difference.accuracy_over_pairs,
    ),
    (
        "accuracy over problems",
        lambda result: result.judges["head"].accuracy_over_problems,
        lambda difference: difference.accuracy_over_problems,
    ),
    ("AUC", lambda result: result.judges["head"].auc, None),
    ("mean_correct", lambda result: result.values.mean_correct, None),
    ("mean_incorrect", lambda result: result.values.mean_incorrect, None),
    ("gap", lambda result: result.values.gap, lambda difference: difference.gap),
)
_DECISIONS: tuple[_Spec, ...] = (
    ("P(correct) of correct", lambda result: _decision(result).probabilities.mean_correct, None),
    (
        "P(correct) of incorrect",
        lambda result: _decision(result).probabilities.mean_incorrect,
        None,
    ),
    (
        "gap of P(correct)",
        lambda result: _decision(result).probabilities.gap,
        lambda difference: difference.probability_gap,
    ),
    ("F1 (threshold of train)", lambda result: _decision(result).f1, None),
    (
        "F1 of calling all correct",
        lambda result: _decision(result).f1_of_calling_all_correct,
        None,
    ),
    (
        "calibration error (ECE)",
        lambda result: _decision(result).expected_calibration_error,
        None,
    ),
    ("Brier score", lambda result: _decision(result).brier, None),
)
_VARIANCES: tuple[_Spec, ...] = (
    ("variance between problems", lambda result: result.variance.between_problems, None),
    (
        "intraclass correlation (ICC)",
        lambda result: result.variance.intraclass_correlation,
        None,
    ),
)


def verdict_text(evaluation: Evaluation, split: str) -> str | None:
    """Compare the head with the best shortcut in a sentence; None without any shortcut."""
    verdict, judges = evaluation.details[split].verdict, evaluation.splits[split].judges
    if verdict is None:
        return None
    head, shortcut = judges["head"], judges[verdict.best_shortcut]
    return verdict_sentence(
        verdict, head.accuracy_over_problems.estimate, shortcut.accuracy_over_problems.estimate
    )


def summary_lines(evaluation: Evaluation, split: str) -> list[str]:
    """The verdict and the other findings of a split, a sentence each."""
    details = evaluation.details[split]
    verdict = verdict_text(evaluation, split)
    lines = [] if verdict is None else [verdict]
    if details.length_correlation is not None:
        lines.append(
            f"rank correlation of score and length within problems: {details.length_correlation}"
        )
    for title, part in (
        ("pairs of similar length", details.length_matched),
        ("minimal pairs", details.minimal_pairs),
    ):
        if part is not None:
            accuracy = part.judges["head"].accuracy_over_pairs
            lines.append(f"{title}: {accuracy} over {part.num_pairs:,} pairs")
    if details.best_of_n is not None:
        best = details.best_of_n
        rates = [f"{name} {rates[-1].estimate:.3f}" for name, rates in best.pickers.items()]
        lines.append(f"pass rate of the best of {best.n[-1]}: {', '.join(rates)}")
    lines += [
        f"left out: {name.replace('_', ' ')}: {why}" for name, why in details.left_out.items()
    ]
    return lines


def points_table(result: SweepResult) -> Table:
    """The best points of a sweep on the half that selects the winner."""
    choose = result.points[0].choose
    assert choose is not None, "the winner has an accuracy"
    keys = list(dict.fromkeys(key for point in result.points for key in point.varied))
    has_holdout = any(point.holdout for point in result.points)
    level = f"{result.confidence:.0%}"
    table = Table(
        title=f"{result.num_heads} heads at {len(result.points)} points, accuracy on the"
        f" {choose.num_problems} problems that select the winner (the best of many: biased up)",
        title_justify="left",
        title_style="bold",
    )
    # NOTE: a value that is cut short could not be told from others, so it wraps.
    for key in keys or ["point"]:
        table.add_column(key.rpartition(".")[2], overflow="fold")
    names = ["one head, over problems", f"all seeds, over problems ({level})", "over pairs"]
    for name in [*names, *(["held-out train problems"] if has_holdout else [])]:
        table.add_column(name, justify="right")
    for place, point in enumerate(result.points[:MAX_POINTS]):
        cells = [point.varied.get(key, "-") for key in keys] or [point.name]
        cells += [_seeds_cell(point), _over_problems(point.choose)]
        cells.append(f"{point.choose.over_pairs:.3f}" if point.choose else "-")
        if has_holdout:
            cells.append(_over_problems(point.holdout))
        table.add_row(*cells, style=None if place else "bold")
    return table


def winner_rows(result: SweepResult) -> dict[str, Any]:
    """The winner's accuracy on both halves, by name."""
    winner, report = result.points[0], result.report
    assert winner.choose is not None, "the winner has an accuracy"
    chosen = winner.choose
    return {
        "winner": winner.name,
        "seeds averaged": sum(accuracy is not None for accuracy in winner.of_seeds),
        f"accuracy on the {chosen.num_problems} problems that chose it": (
            chosen.over_problems.estimate
        ),
        f"accuracy on the {report.num_problems} problems that did not": str(report.over_problems),
        "the same over pairs": report.over_pairs,
        "seconds of training": result.seconds_training,
        "seconds in all": result.seconds,
    }


def _table(title: str, first: str, *columns: str) -> Table:
    """A table whose columns are numbers, except the first."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _seeds_cell(point: PointResult) -> str:
    """`0.701 (0.690-0.712)`: mean, lowest and highest accuracy of the seeds."""
    whole = [accuracy for accuracy in point.of_seeds if accuracy is not None]
    num_diverged = len(point.of_seeds) - len(whole)
    note = f", {num_diverged} diverged" if num_diverged else ""
    if not whole:
        return f"-{note}"
    return f"{np.mean(whole):.3f} ({min(whole):.3f}-{max(whole):.3f}){note}"


def _over_problems(accuracy: Accuracy | None) -> str:
    return str(accuracy.over_problems) if accuracy else "-"
