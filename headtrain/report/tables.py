"""Evaluations and sweeps as tables for the terminal; the page shows the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from headtrain.evaluation.benchmarks import StyleAccuracy, SubsetAccuracy, SubsetResults
from headtrain.evaluation.findings import find_biases, verdict_sentence
from headtrain.evaluation.numbers import (
    ACCURACY,
    AUC,
    BEYOND_90,
    HEAD_NUMBERS,
    JUDGE,
    LENGTH_CORRELATION,
    OVER_PAIRS,
    OVER_PROBLEMS,
)
from headtrain.evaluation.results import HEAD, PREFIX, Evaluation
from headtrain.evaluation.texts import to_visible
from headtrain.metrics.bootstrap import Interval

if TYPE_CHECKING:  # the tables of a finished evaluation are shown without torch
    from headtrain.sweep.result import Accuracy, PointResult, SweepResult

MAX_POINTS = 30
"""Points of a sweep in its table; sweep.json has all."""


@dataclass(frozen=True, kw_only=True)
class ValueRow:
    """One number of the head on every split."""

    name: str
    meaning: str
    splits: tuple[Interval | None, ...]
    difference: Interval | None
    """Train minus the evaluated split; None for numbers without one."""


def judges_table(evaluation: Evaluation, split: str, *, intervals: bool) -> Table:
    """Pairwise accuracy of the head, the shortcuts and the controls on one split."""
    counts = evaluation.splits[split].counts
    level = f" ({evaluation.confidence:.0%})" if intervals else ""
    table = _table(
        f"{split}: {counts.num_pairs:,} pairs of {counts.num_problems:,} problems"
        f" ({counts.num_samples:,} samples, {counts.num_samples_left_out:,} in no pair)",
        "scored by",
        *(f"{quantity.title.removeprefix('accuracy ')}{level}" for quantity in ACCURACY),
        AUC.title,
    )

    def add(name: str, found: Mapping[str, Interval], style: str | None) -> None:
        accuracies = [_cell(found[quantity.key], intervals) for quantity in ACCURACY]
        auc = f"{found[AUC.key].estimate:.3f}" if AUC.key in found else "-"
        table.add_row(name.replace("_", " "), *accuracies, auc, style=style)

    for name, judge in evaluation.splits[split].judges.items():
        add(name, judge, "bold" if name == HEAD else None)
    details = evaluation.details.get(split)
    for name, control in details.controls.items() if details else ():
        state = "control" if control.holds else "control, FAILS"
        add(f"{name} ({state})", control.result, "dim" if control.holds else "red")
    return table


def values_table(evaluation: Evaluation, split: str, *, intervals: bool) -> Table:
    """The head's numbers on every split, and train minus `split`."""
    names = [name.replace("_", " ") for name in evaluation.splits]
    has_difference = split in evaluation.train_minus
    table = _table(
        "values of the head", "", *names, *([f"train - {split}"] if has_difference else [])
    )
    for row in value_rows(evaluation, split):
        last = [_cell(row.difference, intervals, "")] if has_difference else []
        table.add_row(row.name, *(_cell(value, intervals) for value in row.splits), *last)
    return table


def value_rows(evaluation: Evaluation, split: str) -> list[ValueRow]:
    """Rows of the table of values, one per number of the head."""
    difference = evaluation.train_minus.get(split, {})
    of_splits = [result.head for result in evaluation.splits.values()]
    return [
        ValueRow(
            name=quantity.title,
            meaning=quantity.meaning,
            splits=tuple(found.get(quantity.key) for found in of_splits),
            difference=difference.get(quantity.minus or ""),
        )
        for quantity in (*JUDGE, *HEAD_NUMBERS)
        if quantity.key in evaluation.splits[split].head
    ]


def verdict_lines(evaluation: Evaluation, split: str) -> list[str]:
    """The verdict on a split, and a warning for each finding against the head."""
    details = evaluation.details[split]
    sentence = verdict_sentence(evaluation.splits[split], details)
    return [sentence, *(f"warning: {found}" for found in find_biases(evaluation, split))]


def detail_lines(evaluation: Evaluation, split: str) -> list[str]:
    """The other findings of a split, a line each."""
    details = evaluation.details[split]
    lines = []
    if details.length_correlation is not None:
        lines.append(f"{LENGTH_CORRELATION.title}: {details.length_correlation}")
    for title, part in details.subsets.items():
        accuracy = part.judges[HEAD][OVER_PAIRS.key]
        lines.append(f"{title}: {accuracy} over {part.num_pairs:,} pairs")
    if parts := details.breakdowns.get(PREFIX):
        found = [f"{part.name} {part.judges[HEAD][OVER_PROBLEMS.key]}" for part in parts]
        lines.append(f"accuracy over problems from prefixes: {', '.join(found)}")
    if BEYOND_90.key not in evaluation.splits[split].numbers:
        lines.append("distance to train: not kept with this head (critic train-head --distance)")
    best = details.best_of_n
    rates = [f"{name} {rates[-1].estimate:.3f}" for name, rates in best.pickers.items()]
    lines.append(f"pass rate of the best of {best.n[-1]}: {', '.join(rates)}")
    lines += [
        f"left out: {name.replace('_', ' ')}: {why}" for name, why in details.left_out.items()
    ]
    return lines


def points_table(result: "SweepResult") -> Table:
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
    # NOTE: broken here, because rich would break the cells below a wide heading.
    names = ["each seed,\nby problem", f"all seeds,\nby problem ({level})", "by\npair"]
    for name in [*names, *(["held-out\ntrain"] if has_holdout else [])]:
        table.add_column(name, justify="right")
    for place, point in enumerate(result.points[:MAX_POINTS]):
        cells = [point.varied.get(key, "-") for key in keys] or [point.name]
        cells += [_seeds_cell(point), _over_problems(point.choose)]
        cells.append(f"{point.choose.over_pairs:.3f}" if point.choose else "-")
        if has_holdout:
            # NOTE: without its interval, so that the table fits 80 columns; sweep.json has it.
            holdout = point.holdout
            cells.append(f"{holdout.over_problems.estimate:.3f}" if holdout else "-")
        table.add_row(*cells, style=None if place else "bold")
    return table


def winner_rows(result: "SweepResult") -> dict[str, Any]:
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


def _cell(value: Interval | None, intervals: bool, missing: str = "-") -> str:
    if value is None:
        return missing
    return str(value) if intervals else f"{value.estimate:.3f}"


def _table(title: str, first: str, *columns: str) -> Table:
    """A table whose columns are numbers, except the first."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _seeds_cell(point: "PointResult") -> str:
    """`0.690-0.712`: lowest and highest accuracy of the seeds."""
    whole = [accuracy for accuracy in point.of_seeds if accuracy is not None]
    num_diverged = len(point.of_seeds) - len(whole)
    note = f", {num_diverged} diverged" if num_diverged else ""
    if not whole:
        return f"-{note}"
    if len(whole) == 1:
        return f"{whole[0]:.3f}{note}"
    return f"{min(whole):.3f}-{max(whole):.3f}{note}"


def _over_problems(accuracy: "Accuracy | None") -> str:
    return str(accuracy.over_problems) if accuracy else "-"


SUBSET_COLUMNS = ("subset", "pairs", "ties", "accuracy (a tie is wrong)")
"""Of the rows of `subset_rows`."""


def subset_rows(results: SubsetResults) -> list[list[Any]]:
    """Get a row per subset, and both means if there are several."""
    rows = [_subset_row(name, one) for name, one in results.subsets.items()]
    if len(rows) > 1:
        rows.append(_subset_row("all pairs", results.all_pairs))
        rows.append(["mean over subsets", None, None, results.mean_over_subsets])
    return rows


def style_rows(styles: StyleAccuracy) -> dict[str, Any]:
    """Get the rows of the table by style."""
    return {
        "prompts": styles.num_prompts,
        "easy (correct answer fancier)": styles.easy,
        "normal (same style)": styles.normal,
        "hard (incorrect answer fancier)": styles.hard,
        "average": styles.average,
    }


def _subset_row(name: str, one: SubsetAccuracy) -> list[Any]:
    return [to_visible(name), one.num_pairs, one.num_ties, one.accuracy]
