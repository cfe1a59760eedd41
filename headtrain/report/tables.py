"""Evaluations as tables for the terminal; the page shows the same rows.

Nothing is imported that needs torch, so that a finished evaluation is shown at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

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
from headtrain.metrics.bootstrap import Interval


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
    table = make_table(
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
    table = make_table(
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
        lines.append("distance to train: not saved with this head (critic train-head --distance)")
    best = details.best_of_n
    rates = [f"{name} {rates[-1].estimate:.3f}" for name, rates in best.pickers.items()]
    lines.append(f"pass rate of the best of {best.n[-1]}: {', '.join(rates)}")
    lines += [
        f"left out: {name.replace('_', ' ')}: {why}" for name, why in details.left_out.items()
    ]
    return lines


def _cell(value: Interval | None, intervals: bool, missing: str = "-") -> str:
    if value is None:
        return missing
    return str(value) if intervals else f"{value.estimate:.3f}"


def make_table(title: str, first: str, *columns: str) -> Table:
    """A table whose columns are numbers, except the first."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table
