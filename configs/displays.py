"""What commands show of their results: tables and lines on the console."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.console import columns_table, console, rows_table

if TYPE_CHECKING:
    from configs.config import Config
    from featurize.data.audit.prompts import ShownSample
    from featurize.data.audit.report import Audit
    from featurize.data.prepare.from_tests.isolation.protection import Protection
    from featurize.data.prepare.from_tests.summary import PrepareSummary
    from featurize.data.prepare.prepared import Prepared
    from featurize.run.job import FeaturizeSummary
    from headtrain.evaluation.comparison import Comparison, Disagreement
    from headtrain.evaluation.numbers import Number
    from headtrain.evaluation.requirements import Requirement
    from headtrain.evaluation.results import Evaluation
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.sweep.curve import CurveResult
    from headtrain.sweep.result import SweepResult


def announce_protection(protection: "Protection") -> None:
    """Name what keeps programs away from this machine."""
    console().print(f"prepare: {protection.describe()}", soft_wrap=True)


def show_labelled(summary: "PrepareSummary", folder: Path) -> None:
    """Show a dataset whose labels come from running programs."""
    if summary.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {folder}")
        return
    console().print(rows_table(f"prepared {folder}", summary.describe()))


def show_prepared(prepared: "Prepared", place: Path) -> None:
    """The counts of a dataset that was prepared, or that it was there already."""
    if prepared.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {place}")
        return
    title = f"prepared {place}"
    console().print(columns_table(title, ["", *prepared.counts], prepared.describe()))
    if prepared.details:
        console().print(rows_table("", prepared.details))


def show_audit(audit: "Audit") -> None:
    """All tables of an audit."""
    from featurize.data.audit.report import to_tables
    from featurize.data.audit.section import Rows

    for table in to_tables(audit):
        if isinstance(table, Rows):
            console().print(rows_table(table.title, table.rows))
        else:
            console().print(columns_table(table.title, table.columns, table.rows))


def show_prompts(samples: "Sequence[ShownSample]") -> None:
    """Samples as the backbone reads them, with a bar between tokens and control tokens reversed."""
    from rich.text import Text

    for sample in samples:
        console().print(Text(f"\n{sample.title}", style="bold"))
        for part in sample.parts:
            console().print(
                Text(f"-- {part.name}, {len(part.tokens)} tokens: {part.note}", style="cyan")
            )
            line = Text()
            for token in part.tokens:
                text = token.text.replace("\n", "⏎\n")
                line.append(text, style="reverse" if token.is_control else "")
                line.append("" if text.endswith("\n") else "│", style="dim")
            console().print(line)


def show_features(summary: "FeaturizeSummary") -> None:
    """What a featurize job computed, or that it had nothing to do."""
    if summary.was_up_to_date:
        console().print(f"featurize: up to date, nothing done: {summary.store_dir}")
    elif summary.counts:
        console().print(rows_table(f"features in {summary.store_dir}", summary.describe()))


def show_evaluation(evaluation: "Evaluation", split: str, *, detailed: bool) -> None:
    """The verdict and its warnings, then the tables; the rest only in detail."""
    from headtrain.report.tables import detail_lines, judges_table, values_table, verdict_lines

    for line in verdict_lines(evaluation, split):
        console().print(line)
    console().print(judges_table(evaluation, split, intervals=detailed))
    console().print(values_table(evaluation, split, intervals=detailed))
    if not detailed:
        console().print("--details shows intervals, subsets and best of n; the report shows all")
        return
    for line in detail_lines(evaluation, split):
        console().print(line)


def show_requirements(
    requirements: "Sequence[Requirement]",
    evaluation: "Evaluation",
    split: str,
    more: "Sequence[Number]" = (),
) -> bool:
    """Print the requirements that fail; True if all hold. `more` are numbers of a benchmark."""
    from headtrain.evaluation.requirements import check_requirements

    failures = check_requirements(requirements, evaluation, split, more)
    for failure in failures:
        console().print(f"required, but fails: {failure}")
    if requirements and not failures:
        console().print(f"all {len(requirements)} requirements hold")
    return not failures


def show_comparison(
    comparison: "Comparison", split: str, confidence: float, *, num_left_out: int
) -> None:
    """The accuracies of two heads, their difference and their agreement."""
    from headtrain.report.comparison import comparison_lines, comparison_table

    console().print(comparison_table(comparison, split, confidence))
    for line in comparison_lines(comparison):
        console().print(line)
    if num_left_out:
        console().print(f"samples that only one of the stores has: {num_left_out:,}")


def show_disagreements(
    disagreements: "Mapping[str, Sequence[Disagreement]]", texts: "SplitTexts"
) -> None:
    """The code of the pairs on which two heads disagree, by title."""
    import numpy as np

    from headtrain.report.comparison import disagreement_text

    if not texts.are_there:
        console().print(f"no code to show: {texts.source.why_not}")
        return
    for title, pairs in disagreements.items():
        for pair in pairs:
            correct, incorrect = texts.read(np.array([pair.correct, pair.incorrect]))
            console().print(disagreement_text(title, pair, correct, incorrect), soft_wrap=True)


def show_notes(settings: "Config") -> None:
    """What a reader of the plan should know of the settings."""
    from configs.notes import notes

    for line in notes(settings):
        console().print(f"note: {line}", style="dim")


def show_sweep(result: "SweepResult", folder: Path) -> None:
    """The points of a sweep, its winner and the files; draws the figure if it is not there."""
    from headtrain.report.sweep import draw_sweep
    from headtrain.report.tables import points_table, winner_rows
    from headtrain.sweep.result import FIGURE_FILE, RESULT_FILE, WINNER_FOLDER

    figure = folder / FIGURE_FILE
    if result.was_up_to_date:
        console().print(f"sweep: up to date, nothing done: {folder}")
    if not result.was_up_to_date or not figure.exists():
        draw_sweep(result, figure)
    console().print(points_table(result))
    console().print(rows_table(f"head in {folder / WINNER_FOLDER}", winner_rows(result)))
    console().print(f"all points in {folder / RESULT_FILE}, drawn in {figure}")


def show_curve(found: "CurveResult", folder: Path) -> None:
    """The learning curve of a sweep's winner, its verdict and the files."""
    from headtrain.report.curve import curve_rows

    console().print(rows_table("learning curve of the winner", curve_rows(found)))
    console().print(found.verdict)
    console().print(f"the curve in {folder / 'curve.json'}, drawn in {folder / 'curve.png'}")


def show_sweep_page(folder: Path, experiment: str) -> None:
    """Write the page of a sweep, and say where it is."""
    from headtrain.report.sweep_page import write_sweep_page

    console().print(f"page in {write_sweep_page(folder, experiment)}")


def show_heads(paths: Mapping[str, Any]) -> None:
    """The path of each head, by its name in the tables."""
    for name, path in paths.items():
        console().print(f"{name}: {path}")
