"""Statements from another file, joined to rows that only have their key."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurize.data.fields import Row, describe, optional_scalar
from featurize.data.prepare.paths import MISSING, ColumnPath
from featurize.data.records import parse_line
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import CriticError, DataError, RowFault, shorten


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """A file with a row for each key, and the columns that hold the key."""

    file: str  # a file, glob or URI
    on: str  # a column of both, or "column of the rows=column of the file"

    @classmethod
    def of(cls, file: str | None, on: str | None) -> "JoinOptions | None":
        """Read --join and --on, which belong together."""
        if file is not None and on is not None:
            return cls(file=file, on=on)
        if file is not None or on is not None:
            raise CriticError(
                "--join and --on belong together; write e.g. --join tasks.jsonl --on task_id"
            )
        return None

    def __post_init__(self) -> None:
        """Check the columns.

        Raises:
            CriticError: a column is not named, or has several values.
        """
        for path in (self.on_rows, self.on_file):
            if not path or "[*]" in path:
                raise CriticError(f"--on {self.on!r} names no column; write e.g. --on task_id")

    @property
    def on_rows(self) -> str:
        """The column of the rows."""
        return self.on.partition("=")[0].strip()

    @property
    def on_file(self) -> str:
        """The column of the file."""
        left, equals, right = self.on.partition("=")
        return (right if equals else left).strip()


@dataclass(frozen=True, kw_only=True)
class Join:
    """The rows of the joined files by key, and which keys were used."""

    options: JoinOptions
    sources: list[Source]
    rows: Mapping[str, Row]
    columns: frozenset[str]  # those that are read
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, options: JoinOptions, columns: Collection[str], cache_dir: Path | None) -> "Join":
        """Read the columns of all files.

        Raises:
            DataError: a row has no key, or two rows have one key; with file and line.
        """
        sources = find_sources(options.file, cache_dir)
        path = ColumnPath.parse(options.on_file)
        wanted = {*columns, path.root, path.column}
        rows: dict[str, Row] = {}
        places: dict[str, str] = {}
        for source in sources:
            for number, line in enumerate(read_lines(source, wanted), start=1):
                if not line or line.isspace():
                    continue
                place = source.location(number)
                key, row = _read_keyed(line, path, place)
                row = {name: row[name] for name in row if name in wanted}
                if rows.setdefault(key, row) != row:
                    raise DataError(
                        f"{place}: {path.text!r} {shorten(key)} is taken by {places[key]} with "
                        "other values; keep one row for each"
                    )
                places.setdefault(key, place)
        return cls(options=options, sources=sources, rows=rows, columns=frozenset(columns))

    def apply(self, row: Row) -> dict[str, Any]:
        """Add the columns of the joined row; its key is the problem unless the row names one.

        Raises:
            RowFault: the row has no key, no row has this key, or both have a column.
        """
        name = self.options.on_rows
        key = _key_of(row, ColumnPath.parse(name))
        other = self.rows.get(key)
        if other is None:
            raise RowFault(
                f"{name!r} is {shorten(key)}, which no row of {self.options.file} has; complete "
                "that file or drop the row"
            )
        self.used.add(key)
        kept = {column: value for column, value in row.items() if column != "task_id"}
        own = kept if name == "task_id" else row
        for column in self.columns & own.keys() & other.keys() - {name}:
            if own[column] != other[column]:
                raise RowFault(
                    f"{column!r} is {shorten(own[column], 36)} here and "
                    f"{shorten(other[column], 36)} in {self.options.file}; rename one of them"
                )
        shared = {column: value for column, value in other.items() if column != "task_id"}
        joined = {**shared, **own}
        return joined if joined.get("problem_id") is not None else {**joined, "problem_id": key}


def _read_keyed(line: bytes, path: ColumnPath, place: str) -> tuple[str, Row]:
    try:
        row = parse_line(line)
        if not isinstance(row, dict):
            raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
        return _key_of(row, path), row
    except RowFault as fault:
        raise DataError(f"{place}: {fault}") from None


def _key_of(row: Row, path: ColumnPath) -> str:
    value = path.find(row)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes whole numbers in a column with gaps
    key = None if value is MISSING else optional_scalar({"on": value}, "on", "--on")
    if key is None:
        raise RowFault(f"{path.text!r} is missing, which --on needs; correct the column's name")
    return key
