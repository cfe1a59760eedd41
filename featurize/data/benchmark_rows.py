"""What a benchmark says of its pairs: their ids, and the groups its own metrics are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from featurize.arrays import Strings
from featurize.data.fields import Row, is_blank, scalar_to_text

FACTS = "benchmark"
"""Field of a plain row that `to_pair_rows` makes: the facts of its pair."""

GROUPS = ("subset", "aspect", "language")
"""Names of the fields that groups of pairs are made of."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """A row of a benchmark: a prompt with correct and incorrect answers."""

    problem_id: str
    id: str
    """The benchmark's own id; the problem's if it has none."""
    subset: str | None
    aspect: str | None
    language: str | None
    correct: tuple[str, ...]
    """Task ids of its correct answers, in its order."""
    incorrect: tuple[str, ...]

    @property
    def is_pair(self) -> bool:
        """Whether it has one correct and one incorrect answer."""
        return len(self.correct) == len(self.incorrect) == 1


def read_facts(row: Row) -> dict[str, str]:
    """Read what a row of a benchmark says of itself, without fields that are no single value."""
    found = {name: row.get(name) for name in ("id", *GROUPS)}
    texts = {
        name: scalar_to_text(value)
        for name, value in found.items()
        if isinstance(value, (str, int, float))
    }
    return {name: text for name, text in texts.items() if text is not None and not is_blank(text)}


def read_benchmark_rows(path: Path) -> list[BenchmarkRow]:
    """Read the rows of a benchmark back from the file that `write_plain_rows` made of them.

    Rows that are no pairs, such as samples, are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            if FACTS not in row:
                continue
            name = row["problem_id"]
            found = rows.setdefault(name, {**row[FACTS], "correct": [], "incorrect": []})
            found["correct" if row["is_correct"] else "incorrect"].append(row["task_id"])
    return [
        BenchmarkRow(
            problem_id=name,
            id=found.get("id", name),
            **{group: found.get(group) for group in GROUPS},
            correct=tuple(found["correct"]),
            incorrect=tuple(found["incorrect"]),
        )
        for name, found in rows.items()
    ]


def attribute_of(rows: Sequence[BenchmarkRow], name: str, problem_ids: Sequence[str]) -> Strings:
    """Get one of GROUPS for the problem of each sample, [samples]; None where it has none."""
    known = {row.problem_id: getattr(row, name) for row in rows}
    return np.array([known.get(problem_id) for problem_id in problem_ids], dtype=object)
