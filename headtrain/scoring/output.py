"""Writes the rows of a dataset's files again with fields added; nothing else of a row changes."""

import contextlib
import gzip
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from featurize.data.lines import parse_line
from featurize.data.records import DataError
from featurize.data.sources import SUFFIXES, Source, read_lines
from featurize.io.files import atomic_path
from featurize.io.remote import is_remote
from headtrain.scoring.rows import Fields, RowFields, refuse_taken
from headtrain.scoring.values import RANK

_BATCH_ROWS = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class FieldsToAdd:
    """What rows are given."""

    names: Sequence[str]
    """Every field any row is given."""
    rows: Callable[[], Iterator[RowFields]]
    """Begins anew with the first row; a row of the files that it leaves out is blank."""


def to_output(out: str) -> Path:
    """The file that --out names; needs nothing else, so that it comes before any work.

    Raises:
        DataError: a URI, a folder, an unknown ending, or a place where nothing can be written.
    """
    if is_remote(out):
        raise DataError(f"--out {out!r} is a URI; write a file of this machine and copy it there")
    path = Path(out)
    if path.is_dir():
        raise DataError(f"--out {out!r} is a folder; name a file in it")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"--out {out!r} has an unknown ending; known are {', '.join(SUFFIXES)}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise DataError(f"--out {out!r} is below {parent}, which is no folder; name another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(f"--out {out!r}: {parent} is not writable; name another folder")
    return path


def check_output(out: Path, sources: Sequence[Source], names: Sequence[str]) -> None:
    """Refuse, before any work, what could not be written.

    Raises:
        DataError: a file that is read, or a first row with a field so named.
    """
    for source in sources:
        if out.exists() and out.samefile(source.path):
            raise DataError(f"--out {str(out)!r} is the file that is scored; name another")
        if source.suffix == ".parquet":
            refuse_taken(pq.read_schema(source.path).names, names, source.name)
        elif first := next((line for line in _lines(source) if not _is_blank(line)), None):
            _refuse_taken_in_line(first, names, source.location(1))


def write_rows(out: Path, sources: Sequence[Source], added: FieldsToAdd) -> int:
    """Write every row of the sources to `out`, in order, with its fields; returns how many.

    Lines of JSON stay the bytes they were but for what is added before the last brace, columns of
    Parquet keep their types. `out` appears whole or not at all; rows are never all in memory.

    Raises:
        DataError: a file has changed, or a row has a field of one of the names.
    """
    with atomic_path(out) as temporary:
        _refuse_changed(sources)
        if not out.name.endswith(".parquet"):
            num_rows = _write_json_lines(temporary, out.name, sources, added)
        elif all(source.suffix == ".parquet" for source in sources):
            num_rows = _write_columns(temporary, sources, added)
        else:
            num_rows = _write_as_parquet(temporary, sources, added)
        _refuse_changed(sources)  # meanwhile
    return num_rows


def _refuse_changed(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.has_changed():
            raise _changed(source)


def _changed(source: Source) -> DataError:
    return DataError(f"{source.name}: has changed since it was scored; start again")


def _write_json_lines(path: Path, name: str, sources: Sequence[Source], added: FieldsToAdd) -> int:
    num_rows = 0
    with _open_compressed(path, name) as file:
        for line, row in _with_fields(sources, added):
            text = line.removeprefix(_BYTE_ORDER_MARK).strip()
            file.write(text[:-1].rstrip() + b"," + orjson.dumps(row.fields)[1:] + b"\n")
            num_rows += 1
    return num_rows


def _write_columns(path: Path, sources: Sequence[Source], added: FieldsToAdd) -> int:
    """Parquet to Parquet: batches as they are read, columns appended."""
    rows = added.rows()
    schema: pa.Schema | None = None
    num_rows = 0
    with contextlib.ExitStack() as stack:
        for source in sources:
            file = stack.enter_context(pq.ParquetFile(source.path))
            if schema is None:
                schema = file.schema_arrow
                refuse_taken(schema.names, added.names, source.name)
                target = _with_added(schema, added.names)
                writer = stack.enter_context(pq.ParquetWriter(str(path), target))
            elif not file.schema_arrow.equals(schema):
                raise DataError(
                    f"{source.name}: has other columns than {sources[0].name}; score one at a time,"
                    " or write .jsonl"
                )
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                given = [row.fields for row in itertools.islice(rows, batch.num_rows)]
                if len(given) < batch.num_rows:
                    raise _changed(source)
                columns = [*batch.columns, *_to_arrays(given, added.names)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=target))
                num_rows += batch.num_rows
    return num_rows


def _write_as_parquet(path: Path, sources: Sequence[Source], added: FieldsToAdd) -> int:
    """JSON lines to Parquet: once through the rows for their types, once to write them."""
    schema = pa.schema([])
    num_rows = 0
    try:
        for batch in _batches(_with_fields(sources, added)):
            found = _to_table(batch).schema
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        schema = _with_added(
            pa.schema([field for field in schema if field.name not in added.names]), added.names
        )
        with pq.ParquetWriter(str(path), schema) as writer:
            for batch in _batches(_with_fields(sources, added)):
                writer.write_table(pa.Table.from_pylist(_merge(batch), schema))
                num_rows += len(batch)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"{sources[0].name}: its rows do not fit the columns of a Parquet file"
            f" ({str(error).splitlines()[0]}); write .jsonl"
        ) from error
    return num_rows


def _with_fields(
    sources: Sequence[Source], added: FieldsToAdd
) -> Iterator[tuple[bytes, RowFields]]:
    """Every line that is a row, with its fields."""
    rows = added.rows()
    for file, source in enumerate(sources):
        for number, line in enumerate(_lines(source), start=1):
            if _is_blank(line):
                continue
            row = next(rows, None)
            if row is None or (row.file, row.line) != (file, number):
                raise _changed(source)  # every row was indexed
            _refuse_taken_in_line(line, added.names, source.location(number))
            yield line, row


def _refuse_taken_in_line(line: bytes, names: Sequence[str], where: str) -> None:
    # NOTE: parsing every line would take longer than writing it.
    if any(b'"%b"' % name.encode() in line for name in names):
        refuse_taken(list(cast("dict[str, Any]", parse_line(line))), names, where)


def _lines(source: Source) -> Iterator[bytes]:
    """The rows of a file as lines of JSON, all of their columns."""
    if source.suffix != ".parquet":
        return read_lines(source)
    return read_lines(source, columns=pq.read_schema(source.path).names)


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def _batches(
    lines: Iterator[tuple[bytes, RowFields]],
) -> Iterator[list[tuple[bytes, RowFields]]]:
    batch = []
    for line in lines:
        batch.append(line)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _to_table(batch: Sequence[tuple[bytes, RowFields]]) -> pa.Table:
    # NOTE: Table.from_pylist takes the fields of the first row for those of all.
    rows = _merge(batch)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _merge(batch: Sequence[tuple[bytes, RowFields]]) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", parse_line(line)) | row.fields for line, row in batch]


def _with_added(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    for name in names:
        schema = schema.append(pa.field(name, pa.int64() if _is_rank(name) else pa.float64()))
    return schema


def _to_arrays(given: Sequence[Fields], names: Sequence[str]) -> list[pa.Array]:
    return [
        pa.array(
            [fields.get(name) for fields in given], pa.int64() if _is_rank(name) else pa.float64()
        )
        for name in names
    ]


def _is_rank(name: str) -> bool:
    return name.endswith(RANK)


@contextlib.contextmanager
def _open_compressed(path: Path, name: str) -> Iterator[IO[bytes]]:
    """A file to write into, compressed as the ending of `name` says."""
    with path.open("wb", buffering=1 << 20) as plain, contextlib.ExitStack() as stack:
        file: IO[bytes] = plain
        if name.endswith(".gz"):
            # NOTE: no name and no time in its header: equal rows, equal files.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0)
            file = cast("IO[bytes]", stack.enter_context(packed))
        elif name.endswith(".zst"):
            file = stack.enter_context(
                zstandard.ZstdCompressor().stream_writer(plain, closefd=False)
            )
        yield file
