"""Programs with both labels, and statements that contain a solution."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.arrays import Bools
from featurize.data.audit.rows import LabelledRows
from featurize.data.audit.section import MOST_LISTED, Columns, Rows, Section
from featurize.data.index import DatasetIndex

ROWS_AT_ONCE = 4096

SHORTEST_SOLUTION = 40
"""Characters below which a statement may contain a solution by chance."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The result of one pass over all texts."""

    programs: npt.NDArray[np.uint64]
    """Hash of each output without blank lines and trailing spaces, [rows]."""
    is_in_statement: Bools
    """Whether the statement contains the output, ignoring white space, [rows]."""


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """One program of a problem that has both labels."""

    problem_id: str
    correct: tuple[str, ...]
    """Task ids of the samples labelled correct."""
    incorrect: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A statement that contains a correct solution."""

    problem_id: str
    task_id: str


@dataclass(frozen=True, kw_only=True)
class TextAudit:
    """Repeats, contradictions and leaks in a split."""

    num_repeats: int
    """Samples whose program occurs earlier in their problem."""
    contradictions: tuple[Contradiction, ...]
    num_contradicting_samples: int
    leaks: tuple[Leak, ...]


def read_texts(index: DatasetIndex, progress: Progress | None = None) -> Texts:
    """Read every text of a dataset once, a few thousand at a time."""
    programs = np.empty(len(index), np.uint64)
    is_in_statement = np.zeros(len(index), bool)
    folded = ("", "", "")  # instruction, input, both without white space
    for start in range(0, len(index), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(index))
        for row, sample in enumerate(index.read(np.arange(start, stop)), start):
            if folded[:2] != (sample.instruction, sample.input):  # rows of a prompt are adjacent
                whole = _fold(sample.instruction + " " + sample.input)
                folded = (sample.instruction, sample.input, whole)
            programs[row] = program_key(sample.output)
            output = _fold(sample.output)
            is_in_statement[row] = len(output) >= SHORTEST_SOLUTION and output in folded[2]
        if progress is not None:
            progress(stop, len(index))
    return Texts(programs=programs, is_in_statement=is_in_statement)


def program_key(output: str) -> int:
    """Hash a program, ignoring blank lines and trailing spaces."""
    lines = (line.rstrip() for line in output.splitlines())
    content = "\n".join(line for line in lines if line)
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "little")


def audit_texts(table: pa.Table, labelled: LabelledRows, texts: Texts) -> TextAudit:
    """Find programs with both labels, and solutions in statements."""
    programs = texts.programs[labelled.rows]
    order = np.lexsort((programs, labelled.problems))
    starts = np.flatnonzero(
        np.append(True, (np.diff(labelled.problems[order]) != 0) | _differs(programs[order]))
    )[: len(order)]
    sizes = np.diff(np.append(starts, len(order)))
    labels = labelled.is_correct[order]
    num_correct = np.add.reduceat(labels, starts, dtype=np.int64) if len(order) else sizes
    is_both = (num_correct > 0) & (num_correct < sizes)

    def task_ids(places: npt.NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(sorted(table["task_id"].take(pa.array(labelled.rows[places])).to_pylist()))

    contradictions = []
    for start, size in zip(starts[is_both], sizes[is_both], strict=True):
        places = order[start : start + size]
        contradictions.append(
            Contradiction(
                problem_id=labelled.problem_ids[labelled.problems[places[0]]],
                correct=task_ids(places[labelled.is_correct[places]]),
                incorrect=task_ids(places[~labelled.is_correct[places]]),
            )
        )
    given_away = np.flatnonzero(labelled.is_correct & texts.is_in_statement[labelled.rows])
    leaks = [
        Leak(problem_id=labelled.problem_ids[labelled.problems[place]], task_id=task_id)
        for place in given_away.tolist()
        for task_id in task_ids(np.array([place]))
    ]
    return TextAudit(
        num_repeats=len(order) - len(starts),
        contradictions=tuple(contradictions),
        num_contradicting_samples=int(sizes[is_both].sum()),
        leaks=tuple(sorted(leaks, key=lambda leak: (leak.problem_id, leak.task_id))),
    )


def _differs(values: npt.NDArray[np.uint64]) -> Bools:
    # NOTE: not np.diff, which wraps around for unsigned numbers.
    return np.asarray(values[1:] != values[:-1])


def _fold(text: str) -> str:
    return "".join(text.split())


def show_texts(texts: TextAudit) -> Section:
    """Show the counts, and the first contradictions and leaks."""
    counts = {
        "samples that repeat a program of their problem": texts.num_repeats,
        "programs labelled both correct and incorrect": len(texts.contradictions),
        "samples of those": texts.num_contradicting_samples,
        "solutions that the statement contains": len(texts.leaks),
    }
    contradictions = Columns(
        title=f"programs with both labels (at most {MOST_LISTED})",
        columns=("problem", "correct", "incorrect"),
        rows=[
            (one.problem_id, ", ".join(one.correct[:3]), ", ".join(one.incorrect[:3]))
            for one in texts.contradictions[:MOST_LISTED]
        ],
    )
    leaks = Columns(
        title=f"solutions in the statement (at most {MOST_LISTED})",
        columns=("problem", "sample"),
        rows=[(leak.problem_id, leak.task_id) for leak in texts.leaks[:MOST_LISTED]],
    )
    listed = [table for table in (contradictions, leaks) if table.rows]
    return Section(tables=[Rows(title="programs", rows=counts), *listed])
