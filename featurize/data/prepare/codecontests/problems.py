"""The published files of CodeContests: which split each is of, and the problems in them."""

import glob
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.sources import find_sources
from featurize.errors import CriticError, shorten
from featurize.settings import to_split

log = logging.getLogger(__name__)

AS_PUBLISHED = {"train": ("train-*",), "valid": ("valid-*", "validation-*"), "test": ("test-*",)}
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\b")

# The labels as numbered on the Hugging Face hub; the protocol buffers number them differently.
SOURCES = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")
_WORDS = ("easy", "medium", "hard", "harder", "hardest", "external")
DIFFICULTIES = (None, *_WORDS, *"ABCDEFGHIJKLMNOPQRSTUV")
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


def find_splits(
    source: str, patterns: Mapping[str, Sequence[str]], cache_dir: Path | None = None
) -> dict[str, list[Path]]:
    """Find the files of each split that has any, in the order of their names.

    `source` is a folder, a glob, a file or a URI, whose files are copied into `cache_dir`;
    `patterns` match names of files.
    """
    if source and Path(source).expanduser().is_dir():
        source = f"{glob.escape(source)}/**/*.parquet"
    paths = [Path(found.path) for found in find_sources(source, cache_dir)]
    splits: dict[str, list[Path]] = {split: [] for split in patterns}
    for path in sorted(paths, key=lambda path: (path.name, str(path))):
        matching = [s for s in patterns if any(fnmatch(path.name, p) for p in patterns[s])]
        if len(matching) != 1:
            found = f"of {' and '.join(matching)}" if matching else "of no split"
            raise CriticError(
                f"{path}: by its name the file is {found}; name the files of a split, "
                f"e.g. --split train='{path.name}', or give a narrower --source"
            )
        splits[matching[0]].append(path)
    for split, files in splits.items():
        _warn_of_missing(split, files)
    return {split: files for split, files in splits.items() if files}


def to_patterns(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read options such as `train=part-*`; without any, the published names are expected."""
    patterns: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, equals, pattern = option.partition("=")
        if not (equals and pattern):
            raise CriticError(f"--split {option!r} names no files; write e.g. train='train-*'")
        split = to_split(name.strip())
        patterns[split] = (*patterns.get(split, ()), pattern.strip())
    # The order of the options does not matter.
    return {split: patterns[split] for split in AS_PUBLISHED if split in patterns} or AS_PUBLISHED


def _warn_of_missing(split: str, paths: Sequence[Path]) -> None:
    """Compare with the total in published names: `train-00000-of-00039-<hash>.parquet`."""
    numbers = [match for path in paths if (match := _NUMBERED.search(path.name))]
    if numbers:
        wanted = int(numbers[0][2])
        present = len({int(match[1]) for match in numbers})
        if present < wanted:
            log.warning("%s: only %d of %d published files are here", split, present, wanted)


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
