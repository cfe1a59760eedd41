"""A prepared dataset: rows that are read for it, its files of samples, the summary beside them."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.fields import describe
from featurize.data.records import parse_line
from featurize.data.sources import Source, read_lines
from featurize.errors import CriticError, DataError, RowFault
from featurize.io.files import atomic_path, read_json, write_json

FORMAT_VERSION = 1
SUMMARY_FILE = "summary.json"
ENDINGS = (".jsonl", ".parquet")
TEXT_METADATA = {"source": pa.string(), "language": pa.string(), "difficulty": pa.string()}
_GROUP_ROWS = 8192
_GROUP_CHARS = 32 << 20

Row: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and the total."""


def read_rows(
    sources: Iterable[Source], columns: Collection[str] | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield every row of the files with its place.

    Raises:
        DataError: a line is not a JSON object; with file and line.
    """
    for source in sources:
        for number, line in read_row_lines(source, columns):
            try:
                row = to_row(line)
            except RowFault as fault:
                raise DataError(f"{source.location(number)}: {fault}") from None
            yield source.location(number), row


def read_row_lines(
    source: Source, columns: Collection[str] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield every line of a file that is not blank with its number, from 1."""
    for number, line in enumerate(read_lines(source, columns), start=1):
        if line and not line.isspace():
            yield number, line


def to_row(line: bytes) -> Row:
    """Parse a line.

    Raises:
        RowFault: it is not a JSON object.
    """
    parsed = parse_line(line)
    if not isinstance(parsed, dict):
        raise RowFault(f"the row is {describe(parsed)}; every row must be one JSON object")
    return parsed


@dataclass(kw_only=True)
class Counts:
    """Counts every problem and sample read for one file; filled while the file is written."""

    problems: int = 0
    correct: int = 0
    incorrect: int = 0
    unlabelled: int = 0
    problems_left_out: Counter[str] = field(default_factory=Counter)  # reason -> number
    samples_left_out: Counter[str] = field(default_factory=Counter)

    def add(self, is_correct: bool | None) -> None:
        """Count one written sample."""
        if is_correct is None:
            self.unlabelled += 1
        elif is_correct:
            self.correct += 1
        else:
            self.incorrect += 1

    @property
    def samples(self) -> int:
        """Number of samples written."""
        return self.correct + self.incorrect + self.unlabelled

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the fields as a summary has them."""
        counters = {name: Counter(values[name]) for name in values if name.endswith("_left_out")}
        return cls(**{**values, **counters})

    def describe(self) -> dict[str, int]:
        """List the numbers to show, in order."""
        rows = {"correct": self.correct, "incorrect": self.incorrect}
        if self.problems or self.problems_left_out:  # otherwise they were not counted
            rows = {"problems": self.problems, **rows}
        if self.unlabelled:
            rows["without a label"] = self.unlabelled
        for things in ("problems", "samples"):
            for reason, number in getattr(self, f"{things}_left_out").most_common():
                rows[f"left out: {things} {reason}"] = number
        return rows


@dataclass(kw_only=True)
class Prepared:
    """The content of the summary, which is written last; filled part by part."""

    path: Path  # of the summary
    command: str  # as in "prepare codecontests"
    recipe: dict[str, Any]  # everything that decides the content: settings, and the files read
    counts: dict[str, Counts] = field(default_factory=dict)  # part of the dataset -> its counts
    files: dict[str, int] = field(default_factory=dict)  # path from the folder -> bytes
    details: dict[str, Any] = field(default_factory=dict)  # other results to show
    was_up_to_date: bool = False  # an earlier run had written all of it

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        recipe: dict[str, Any],
        *,
        targets: Collection[Path],
        sources: Collection[str],
        overwrite: bool,
    ) -> Self:
        """Find what an earlier run of the same recipe has written; its summary is at `path`.

        `targets` are the files to write, `sources` the absolute paths of the files to read.

        Raises:
            CriticError: a target is also a source, or exists and is not from such a run.
        """
        for target in targets:
            if str(target.absolute()) in sources:
                raise CriticError(f"{target}: is one of the files read; choose another --out")
        if overwrite:
            _remove_others(path, command, targets)
        elif not path.exists():
            _refuse_existing(path, command, targets)
        else:
            found = cls(path=path, **_read_summary(path, command))
            refuse_other_recipe(path, found.recipe, recipe)
            paths = {name: path.parent / name for name in found.files}
            found.files = {
                name: size
                for name, size in found.files.items()
                if paths[name].is_file() and paths[name].stat().st_size == size
            }
            found.was_up_to_date = {paths[name] for name in found.files} == set(targets)
            return found
        return cls(path=path, command=command, recipe=recipe)

    def add(self, part: str, counts: Counts, file: Path) -> None:
        """Add a part that is written to `file`."""
        self.files[file.relative_to(self.path.parent).as_posix()] = file.stat().st_size
        self.counts[part] = counts

    def save(self) -> None:
        """Write the summary."""
        names = ("command", "recipe", "files", "details")
        content = {name: getattr(self, name) for name in names}
        counts = {part: vars(counts) for part, counts in self.counts.items()}
        write_json(self.path, {"format_version": FORMAT_VERSION, **content, "counts": counts})

    def describe(self) -> list[list[Any]]:
        """List the rows of a table with a column for every part."""
        parts = [counts.describe() for counts in self.counts.values()]
        names = dict.fromkeys(name for part in parts for name in part)
        return [[name, *(part.get(name, 0) for part in parts)] for name in names]


def refuse_other_recipe(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise if the summary at `path` describes a dataset that was made with another recipe."""
    names = [*wanted, *(name for name in found if name not in wanted)]  # e.g. a join left out
    key = next((name for name in names if found.get(name) != wanted.get(name)), None)
    if key is None:
        return
    difference = f"{key} {found.get(key)!r}, not {wanted.get(key)!r}"
    if isinstance(wanted.get(key), dict):
        difference = f"other {key}"
    raise CriticError(
        f"{path}: describes a dataset made with {difference}; "
        "choose another --out or give --overwrite"
    )


def _read_summary(path: Path, command: str) -> dict[str, Any]:
    try:
        content = read_json(path)
        if (content.pop("format_version"), content["command"]) == (FORMAT_VERSION, command):
            counts = {part: Counts.from_json(c) for part, c in content["counts"].items()}
            return {**content, "counts": counts}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise CriticError(
        f"{path}: not a summary of {command}; choose another --out or give --overwrite"
    )


def _remove_others(path: Path, command: str, targets: Collection[Path]) -> None:
    """Delete the files of an earlier run that this one will not replace, e.g. a dropped split."""
    with contextlib.suppress(CriticError, FileNotFoundError):
        for name in _read_summary(path, command)["files"]:
            if path.parent / name not in targets:
                (path.parent / name).unlink(missing_ok=True)


def _refuse_existing(path: Path, command: str, targets: Collection[Path]) -> None:
    for target in targets:
        if target.exists():
            raise CriticError(
                f"{target}: exists, but {path.name} of {command} is not beside it; "
                "choose another --out or give --overwrite"
            )


@contextlib.contextmanager
def samples_written(
    path: Path, rows: Iterable[Row], *, metadata: Mapping[str, pa.DataType]
) -> Iterator[None]:
    """Write samples to a JSONL or Parquet file, which is replaced when the block ends.

    `metadata` has the types of the samples' metadata: a Parquet file always has these columns, a
    JSONL file only those of the sample.
    """
    if path.suffix not in ENDINGS:
        raise CriticError(f"{str(path)!r} has an unknown ending; known are {', '.join(ENDINGS)}")
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            names = ("instruction", "input", "output", "is_correct", "problem_id", "task_id")
            types = dict.fromkeys(names, pa.string()) | {"is_correct": pa.bool_()}
            schema = pa.schema({**types, "metadata": pa.struct(list(metadata.items()))})
            with pq.ParquetWriter(str(temporary), schema, compression="zstd") as writer:
                for group in _row_groups(rows):
                    writer.write_table(pa.Table.from_pylist(group, schema))
        else:
            with temporary.open("wb", buffering=1 << 20) as file:
                file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        yield


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into lists of few rows and few characters."""
    group: list[Row] = []
    num_chars = 0
    for row in rows:
        group.append(row)
        num_chars += len(row["instruction"]) + len(row["output"])
        if len(group) >= _GROUP_ROWS or num_chars >= _GROUP_CHARS:
            yield group
            group, num_chars = [], 0
    if group:
        yield group
