"""Reads the problems of CodeContests from its Parquet files, a few at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.errors import CriticError, shorten

# The labels as numbered on the Hugging Face hub; the protocol buffers number them differently.
SOURCES = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")
DIFFICULTIES = (
    None,
    "easy",
    "medium",
    "hard",
    "harder",
    "hardest",
    "external",
    *"ABCDEFGHIJKLMNOPQRSTUV",
)
LANGUAGES = ("unknown", "python2", "cpp", "python3", "java")

_BATCH_ROWS = 8  # a popular problem has thousands of solutions
_READ_BYTES = 1 << 20
_LABEL, _TEXT = "an integer", "string"
_SOLUTIONS = "struct<language: list<int64>, solution: list<string>>"
_COLUMNS = {
    "name": _TEXT,
    "description": _TEXT,
    "source": _LABEL,
    "difficulty": _LABEL,
    "cf_rating": _LABEL,
    "solutions": _SOLUTIONS,
    "incorrect_solutions": _SOLUTIONS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """A submitted program."""

    language: str
    text: str
    is_correct: bool
    number: int  # position among the problem's published solutions with this label


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestProblem:
    """A task with all its published programs."""

    problem_id: str  # source/name: problems of two sources may share a name
    statement: str
    source: str | None
    difficulty: str | None
    cf_rating: int | None
    solutions: list[Solution]


def count_problems(paths: list[Path]) -> int:
    """Check the columns of every file and return the number of its problems."""
    total = 0
    for path in paths:
        with _open(path) as file:
            _check_columns(path, file.schema_arrow)
            total += file.metadata.num_rows
    return total


def read_problems(path: Path) -> Iterator[ContestProblem]:
    """Read the problems of a file in order."""
    row = 0
    with _open(path) as file:
        try:
            # The name of a struct selects all of its fields. The tests, which are most of the file,
            # are not read.
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(_COLUMNS)):
                for value in batch.to_pylist():
                    row += 1
                    yield _to_problem(value, f"{path}:row {row}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_READ_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CriticError:
    reason = shorten(str(error).partition("\n")[0], 120)
    return CriticError(f"{path}: cannot be read as Parquet ({reason}); fetch it again")


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for name, wanted in _COLUMNS.items():
        if name not in schema.names:
            raise CriticError(
                f"{path}: column {name!r} is missing (there are {', '.join(schema.names)}); "
                "give the Parquet files of deepmind/code_contests, or use critic prepare columns"
            )
        found = schema.field(name).type
        if not _has_type(found, wanted):
            raise CriticError(
                f"{path}: column {name!r} is {found}, but deepmind/code_contests has "
                f"{wanted}; give the Parquet files as published"
            )


def _has_type(found: pa.DataType, wanted: str) -> bool:
    types = pa.types
    if wanted == _LABEL:
        return bool(types.is_integer(found))
    if wanted == _TEXT:
        return bool(types.is_string(found) or types.is_large_string(found))
    lists = {field.name: field.type for field in found} if types.is_struct(found) else {}
    return all(
        name in lists
        and (types.is_list(lists[name]) or types.is_large_list(lists[name]))
        and _has_type(lists[name].value_type, item)
        for name, item in (("language", _LABEL), ("solution", _TEXT))
    )


def _to_problem(row: dict[str, Any], place: str) -> ContestProblem:
    if not row["name"]:
        raise CriticError(f"{place}: 'name' is {row['name']!r}; every problem needs one")
    source = _label(row["source"], SOURCES, "source", place)
    return ContestProblem(
        problem_id=f"{source}/{row['name']}",
        statement=row["description"] or "",
        source=None if source == SOURCES[0] else source,
        difficulty=_label(row["difficulty"], DIFFICULTIES, "difficulty", place),
        cf_rating=row["cf_rating"] or None,  # 0: none
        solutions=_solutions(row, "solutions", True, place)
        + _solutions(row, "incorrect_solutions", False, place),
    )


def _solutions(row: dict[str, Any], column: str, is_correct: bool, place: str) -> list[Solution]:
    lists = row[column] or {}
    languages, texts = (lists.get(name) or [] for name in ("language", "solution"))
    if len(languages) != len(texts):
        raise CriticError(
            f"{place}: {column!r} has {len(languages)} languages and {len(texts)} solutions; "
            "each solution needs a language: fetch the file again"
        )
    return [
        Solution(
            language=str(_label(language, LANGUAGES, f"{column}.language", place)),
            text=text or "",
            is_correct=is_correct,
            number=number,
        )
        for number, (language, text) in enumerate(zip(languages, texts, strict=True))
    ]


def _label(
    number: int | None, names: tuple[str | None, ...], column: str, place: str
) -> str | None:
    if number is None or not 0 <= number < len(names):
        raise CriticError(
            f"{place}: {column!r} is {number}; deepmind/code_contests has 0 to {len(names) - 1}"
        )
    return names[number]
