"""One problem for the terminal: its outputs ranked, and the best beside the worst."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from headtrain.evaluation.problems import Candidate, Problem

MOST_CANDIDATES = 20
"""Rows of the table; of more outputs it shows the best and the worst."""

MOST_STATEMENT_LINES = 16


class Row(NamedTuple):
    """A line of two programs beside each other."""

    left: str
    sign: str
    """Empty where both are the same, `|` where they differ, `<` and `>` where one has no line."""
    right: str


def statement_lines(problem: Problem) -> list[str]:
    """Get the lines of the statement; of a long one the first, and how many follow."""
    lines = problem.instruction.splitlines()
    left = len(lines) - MOST_STATEMENT_LINES
    return lines if left <= 0 else [*lines[:MOST_STATEMENT_LINES], f"... ({left} more lines)"]


def ranking_table(problem: Problem) -> Table:
    """Show the outputs of a problem, the highest value first."""
    table = Table(
        title=f"{problem.problem_id}: {problem.accuracy:.0%} of {problem.num_pairs} pairs in order",
        title_justify="left",
        title_style="bold",
    )
    for name in ("rank", "value", "P(correct)"):
        table.add_column(name, justify="right")
    table.add_column("label")
    table.add_column("sample", overflow="fold")
    half = MOST_CANDIDATES // 2
    hidden = max(0, len(problem.candidates) - 2 * half)
    for candidate in problem.candidates:
        if hidden and candidate.rank == half + 1:
            table.add_row("...", "", "", "", f"{hidden} more")
        if not half < candidate.rank <= half + hidden:
            table.add_row(*_cells(candidate))
    return table


def _cells(candidate: Candidate) -> tuple[str, ...]:
    probability = "-" if candidate.probability is None else f"{candidate.probability:.3f}"
    value = f"{candidate.score:.3f}"
    return str(candidate.rank), value, probability, label_of(candidate), candidate.task_id


def label_of(candidate: Candidate) -> str:
    """Name the label of an output."""
    return "correct" if candidate.is_correct else "incorrect"


def programs_table(problem: Problem) -> Table:
    """Show the output with the highest value beside the one with the lowest."""
    best, worst = problem.candidates[0], problem.candidates[-1]
    table = Table(width=80, padding=(0, 0, 0, 0), pad_edge=False)
    heads = [f"rank {one.rank}, {label_of(one)}, value {one.score:.3f}" for one in (best, worst)]
    table.add_column(heads[0], ratio=1, overflow="fold")
    table.add_column("", width=1)
    table.add_column(heads[1], ratio=1, overflow="fold")
    for left, sign, right in side_by_side(best.output or "", worst.output or ""):
        style = "bold" if sign else ""
        table.add_row(Text(left, style), sign, Text(right, style))
    return table


def side_by_side(left: str, right: str) -> Iterator[Row]:
    """Align the lines of two programs, as `diff --side-by-side` does."""
    lines = left.splitlines(), right.splitlines()
    for tag, *bounds in SequenceMatcher(None, *lines, autojunk=False).get_opcodes():
        blocks = lines[0][bounds[0] : bounds[1]], lines[1][bounds[2] : bounds[3]]
        for one, other in zip_longest(*blocks):
            sign = "" if tag == "equal" else "|"
            if one is None or other is None:
                sign = ">" if one is None else "<"
            yield Row(one or "", sign, other or "")
