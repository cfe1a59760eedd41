"""Writes the rows of files again with fields added, or the best sample of each task among them."""

import contextlib
import gzip
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from featurize.arrays import Floats, Ints
from featurize.data.records import parse_line
from featurize.data.sources import SUFFIXES, Source, find_sources, read_lines
from featurize.errors import DataError
from featurize.io.files import atomic_path
from featurize.io.remote import is_remote
from headtrain.scoring.scorer import PROBABILITY, RANK, SCORE

SIDES = ("", "chosen_", "rejected_")
"""Prefix of a field by the `part` of its sample: a preference row holds two samples."""
PLACE = ("file", "line")
"""Columns that identify a row: number of its file, and line counted from 1."""
HARNESS = "harness"
"""Field of a row: the name of the harness it came from, and its sample there."""
_BATCH_ROWS = 4096
_LONG_NUMBER = re.compile(rb"\d{19}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row = tuple[bytes, dict[str, float | int]]
"""A line of JSON, and the fields to add."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best sample of each task, as its harness has it."""

    samples: Sequence[Any]
    num_candidates: int

    def describe(self) -> dict[str, int]:
        """List the numbers by name."""
        return {
            "tasks (one sample each)": len(self.samples),
            "samples to choose from": self.num_candidates,
        }


def to_output(out: str) -> Path:
    """Check the file that --out names; needs nothing else, so that it runs before any work.

    Raises:
        DataError: a URI, a folder, an unknown ending, or a place that cannot be written to.
    """
    if is_remote(out):
        raise DataError(f"--out {out!r} is a URI; write a local file and copy it there")
    path = Path(out)
    if path.is_dir():
        raise DataError(f"--out {out!r} is a folder; name a file in it")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"--out {out!r} has an unknown ending; known are {', '.join(SUFFIXES)}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise DataError(f"--out {out!r} is below {parent}, which is not a folder; name another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(f"--out {out!r}: {parent} is not writable; name another folder")
    return path


def refuse_existing(out: Path) -> None:
    """Raise DataError if a file is there that has any content."""
    if out.exists() and out.stat().st_size:
        raise DataError(
            f"--out {str(out)!r} exists and is not known to be a result of this command; name"
            " another file, or give --overwrite"
        )


def is_scored(path: Path, prefix: str) -> bool:
    """Whether the first row of a file has the fields of a row scored with this prefix."""
    try:
        [source] = find_sources(str(path))
        if source.suffix == ".parquet":
            names = set(pq.read_schema(source.path).names)
        else:
            names = set(_parse(next(iter(read_lines(source)), b"")).keys())
    except (ValueError, OSError, AttributeError, pa.ArrowException):
        return False  # not rows at all, or JSON that is no object
    return any(
        {f"{prefix}{side}{name}" for name in (SCORE, PROBABILITY, RANK)} <= names for side in SIDES
    )


def blank_rows(index: pa.Table, names: Sequence[str], prefix: str) -> pa.Table:
    """Return rows as `to_rows` does, before there are values: the fields are 0."""
    return to_rows(index, dict.fromkeys(names, np.zeros(len(index))), prefix)


def to_rows(
    index: pa.Table, fields: Mapping[str, Ints | Floats | pa.Array], prefix: str
) -> pa.Table:
    """Return the fields of each row of the files, in their order; `fields` are [samples of index].

    A column is null in the rows without that side. PLACE are the first columns.
    """
    files, lines, parts = (index[name].to_numpy() for name in (*PLACE, "part"))
    places, rows = np.unique(files.astype(np.int64) << 32 | lines, return_inverse=True)
    columns = {"file": pa.array(places >> 32), "line": pa.array(places & 0xFFFFFFFF)}
    for part in np.unique(parts).tolist():
        is_here = parts == part
        is_null = np.ones(len(places), bool)
        is_null[rows[is_here]] = False
        sample_of_row = np.zeros(len(places), np.int64)
        sample_of_row[rows[is_here]] = is_here.nonzero()[0]
        chosen = pa.array(sample_of_row, mask=is_null)
        for name, values in fields.items():
            columns[f"{prefix}{SIDES[part]}{name}"] = pa.array(values).take(chosen)
    return pa.table(columns)


def check_output(out: Path, sources: Sequence[Source], rows: pa.Table) -> None:
    """Find, before any work, what would stop the writing: writes `blank_rows` to nowhere.

    Raises:
        DataError: `out` is one of the sources, a row has one of these fields already, or a column
            cannot be written in the format of `out`.
    """
    for source in sources:
        if out.exists() and out.samefile(source.path):
            raise DataError(f"--out {str(out)!r} is the file that is scored; name another")
    _write(None, out, sources, rows)


def write_rows(out: Path, sources: Sequence[Source], rows: pa.Table) -> int:
    """Write every row of the sources to `out` with the fields in `rows`; return their number.

    The bytes of a JSON line are kept, with the fields added before its last brace; columns of
    Parquet keep their types. `out` appears only when it is complete. Rows are read in batches.

    Raises:
        DataError: a file has changed, or a row has one of the fields already.
    """
    with atomic_path(out) as temporary:
        _refuse_changed(sources)
        _write(temporary, out, sources, rows)
        _refuse_changed(sources)  # they may have changed meanwhile
    return int(rows.num_rows)


def choose_best(out: Path, sources: Sequence[Source], rows: pa.Table) -> Chosen:
    """Choose the sample of each task with the highest score; of equal ones, the first.

    Args:
        out: .jsonl, or .json for LiveCodeBench, whose evaluator reads a list.
        sources: files written by `critic prepare human-eval` and the like.
        rows: their scores, the first column after PLACE.

    Raises:
        DataError: a row has no sample of a harness, or `out` the wrong ending.
    """
    best: dict[str, tuple[float, Any]] = {}
    names, num_rows = set(), 0
    for line, fields in _join_rows(sources, rows):
        row = orjson.loads(line)
        num_rows += 1
        if HARNESS not in row:
            raise DataError(
                f"{sources[0].name}: row {num_rows} has no field {HARNESS!r}; --best takes"
                " files of `critic prepare human-eval`, evalplus, livecodebench or lm-eval"
            )
        names.add(row[HARNESS]["name"])
        task, value = row["problem_id"], float(fields[rows.column_names[len(PLACE)]])
        if task not in best or value > best[task][0]:
            best[task] = (value, row[HARNESS]["sample"])
    ending = ".json" if names == {"livecodebench"} else ".jsonl"
    if not out.name.endswith(ending):
        raise DataError(f"--out {str(out)!r}: {', '.join(names)} reads {ending}; name such a file")
    return Chosen(samples=[sample for _, sample in best.values()], num_candidates=num_rows)


def write_best(out: Path, chosen: Chosen) -> None:
    """Write the samples as their harness reads them."""
    content = b"".join(orjson.dumps(sample) + b"\n" for sample in chosen.samples)
    if out.suffix == ".json":
        content = orjson.dumps(chosen.samples)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)


def _write(path: Path | None, out: Path, sources: Sequence[Source], rows: pa.Table) -> None:
    """Write in the format of `out` to `path`; None: nowhere, which finds all that is wrong."""
    target = path or Path(os.devnull)
    if not out.name.endswith(".parquet"):
        with _open_compressed(target, out.name if path else "") as file:
            for line, fields in _join_rows(sources, rows):
                text = line.removeprefix(_BYTE_ORDER_MARK).strip()
                file.write(text[:-1].rstrip() + b"," + orjson.dumps(fields)[1:] + b"\n")
    elif all(source.suffix == ".parquet" for source in sources):
        _append_columns(target, sources, rows)
    else:
        _convert_to_parquet(target, sources, rows)


def _append_columns(path: Path, sources: Sequence[Source], rows: pa.Table) -> None:
    """Copy Parquet files batch by batch and append the columns of `rows`."""
    added = rows.drop_columns(list(PLACE))
    schema = _common_schema(sources, added.column_names)
    target = pa.schema([*schema, *added.schema], schema.metadata)
    start = 0
    with pq.ParquetWriter(str(path), target) as writer:
        for source in sources:
            for batch in _read_batches(source, schema):
                fields = added.slice(start, batch.num_rows)
                if fields.num_rows < batch.num_rows:
                    raise _changed(source)
                columns = [column.combine_chunks() for column in fields.columns]
                arrays = [*batch.columns, *columns]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=target))
                start += batch.num_rows


def _common_schema(sources: Sequence[Source], names: Sequence[str]) -> pa.Schema:
    """Read the columns of Parquet files, which must be the same and none of these fields."""
    schema: pa.Schema = pq.read_schema(sources[0].path)
    for source in sources:
        found = pq.read_schema(source.path)
        _refuse_taken(found.names, names, source.name)
        if not found.equals(schema):
            raise DataError(
                f"{source.name}: has other columns than {sources[0].name}; score one at a time, or"
                " write .jsonl"
            )
    return schema


def _read_batches(source: Source, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(source.path) as file:
        if not file.schema_arrow.equals(schema):
            raise _changed(source)
        try:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{source.name}: cannot be read as Parquet ({reason})") from error


def _convert_to_parquet(path: Path, sources: Sequence[Source], rows: pa.Table) -> None:
    """Convert JSON lines: the first pass finds the types of all columns, the second writes.

    Raises:
        DataError: a column mixes types, or a value does not fit its type.
    """
    added = rows.drop_columns(list(PLACE)).schema
    schema = pa.schema([])
    try:
        for batch in _read_parsed(sources, rows):
            found = _infer_schema(batch)
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        schema = pa.schema([*(field for field in schema if field.name not in added.names), *added])
        with pq.ParquetWriter(str(path), schema) as writer:
            for batch in _read_parsed(sources, rows):
                writer.write_table(pa.Table.from_pylist(batch, schema))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{sources[0].name}: its rows do not fit the columns of a Parquet file"
            f" ({str(error).splitlines()[0]}); write .jsonl"
        ) from error


def _read_parsed(sources: Sequence[Source], rows: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Read parsed rows with their fields, some thousand at a time."""
    joined = (_parse(line) | fields for line, fields in _join_rows(sources, rows))
    while batch := list(itertools.islice(joined, _BATCH_ROWS)):
        yield batch


def _parse(line: bytes) -> dict[str, Any]:
    """Parse a line of JSON that is known to be an object; integers keep all their digits."""
    # NOTE: orjson reads integers from 2**64 on as floats.
    parsed = json.loads(line) if _LONG_NUMBER.search(line) else parse_line(line)
    return cast("dict[str, Any]", parsed)


def _infer_schema(batch: Sequence[Mapping[str, Any]]) -> pa.Schema:
    # NOTE: Table.from_pylist takes the fields of the first row for those of all rows.
    columns = {}
    for name in dict.fromkeys(name for row in batch for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in batch])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise pa.ArrowInvalid(f"{name!r}: {error}") from error
    return pa.table(columns).schema


def _join_rows(sources: Sequence[Source], rows: pa.Table) -> Iterator[Row]:
    """Read every line that is not blank, with its fields."""
    names = rows.column_names[len(PLACE) :]
    given = (row for batch in rows.to_batches(_BATCH_ROWS) for row in batch.to_pylist())
    for number, source in enumerate(sources):
        for line_number, line in enumerate(_read_copied(source), start=1):
            if not line.strip():
                continue
            row = next(given, None)
            if row is None or (row.pop("file"), row.pop("line")) != (number, line_number):
                raise _changed(source)  # every row was indexed
            # NOTE: to parse every line would take longer than to write it.
            if any(b'"%b"' % name.encode() in line for name in names):
                _refuse_taken(list(_parse(line)), names, source.location(line_number))
            yield line, {name: value for name, value in row.items() if value is not None}


def _read_copied(source: Source) -> Iterator[bytes]:
    """Read the rows of a file as lines of JSON with all their columns."""
    if source.suffix != ".parquet":
        yield from read_lines(source)
        return
    try:
        yield from read_lines(source, columns=pq.read_schema(source.path).names)
    except DataError as error:
        raise DataError(f"{error}; only a .parquet file can have it as it is (--out)") from error


def _refuse_taken(present: Sequence[str], names: Sequence[str], where: str) -> None:
    taken = [name for name in names if name in present]
    if taken:
        raise DataError(
            f"{where}: has a field {taken[0]!r} already, which is not replaced; "
            "write the scores under other names: --prefix critic_"
        )


def _refuse_changed(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.has_changed():
            raise _changed(source)


def _changed(source: Source) -> DataError:
    return DataError(f"{source.name}: has changed since it was scored; start again")


@contextlib.contextmanager
def _open_compressed(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file for writing, compressed according to the ending of `name`."""
    with path.open("wb", buffering=1 << 20) as plain, contextlib.ExitStack() as stack:
        file: IO[bytes] = plain
        if name.endswith(".gz"):
            # NOTE: without name and time in the header, equal rows give equal files.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0)
            file = cast("IO[bytes]", stack.enter_context(packed))
        elif name.endswith(".zst"):
            file = stack.enter_context(
                zstandard.ZstdCompressor().stream_writer(plain, closefd=False)
            )
        yield file
