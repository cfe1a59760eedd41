"""Programs with both labels, and statements that contain a solution."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.arrays import Bools, Ints
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
    hashes, programs = np.unique(texts.programs[labelled.rows], return_inverse=True)
    keys = labelled.problems * len(hashes) + programs
    # The program of each sample within its problem, [samples], and its number of samples.
    _, codes, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    num_correct = np.bincount(codes[labelled.is_correct], minlength=len(sizes))
    is_both = (num_correct > 0) & (num_correct < sizes)
    leaking = np.flatnonzero(labelled.is_correct & texts.is_in_statement[labelled.rows])
    leaks = [
        Leak(problem_id=labelled.problem_ids[labelled.problems[place]], task_id=task_id)
        for place, task_id in zip(leaking, _task_ids(table, labelled, leaking), strict=True)
    ]
    return TextAudit(
        num_repeats=len(codes) - len(sizes),
        contradictions=tuple(_contradictions(table, labelled, codes, is_both)),
        num_contradicting_samples=int(sizes[is_both].sum()),
        leaks=tuple(sorted(leaks, key=lambda leak: (leak.problem_id, leak.task_id))),
    )


def _contradictions(
    table: pa.Table, labelled: LabelledRows, codes: Ints, is_both: Bools
) -> Iterator[Contradiction]:
    """Collect the samples [samples] of every program [programs] that has both labels."""
    places = np.flatnonzero(is_both[codes])
    places = places[np.argsort(codes[places], kind="stable")]
    task_ids = _task_ids(table, labelled, places)
    for _, group in itertools.groupby(zip(places, task_ids, strict=True), lambda p: codes[p[0]]):
        samples = sorted((task_id, place) for place, task_id in group)
        labels = labelled.is_correct
        yield Contradiction(
            problem_id=labelled.problem_ids[labelled.problems[samples[0][1]]],
            correct=tuple(task_id for task_id, place in samples if labels[place]),
            incorrect=tuple(task_id for task_id, place in samples if not labels[place]),
        )


def _task_ids(table: pa.Table, labelled: LabelledRows, places: Ints) -> list[str]:
    task_ids: list[str] = table["task_id"].take(pa.array(labelled.rows[places])).to_pylist()
    return task_ids


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
