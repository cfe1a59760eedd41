"""Rows of a Parquet file as lines of JSON: bytes become text, and nothing becomes a `repr`."""

from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from featurize.errors import DataError, shorten

_BATCH_ROWS = 1024
# Written as text, since JSON has no such types.
_AS_TEXT = (Decimal, timedelta, datetime, time)


def read_parquet_lines(
    path: str, name: str, columns: Sequence[str] | None = None
) -> Iterator[bytes]:
    """Yield the rows of a file, which messages call `name`; `columns` None reads all of them.

    Raises:
        DataError: the file is damaged, or a value has no form in JSON; with column and row.
    """
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for row in _to_rows(batch, name, number):
                    number += 1
                    yield _to_line(row, f"{name}:row {number}")
    except (pa.ArrowException, OSError) as error:
        reason = shorten(str(error).splitlines()[0], 120)
        raise DataError(f"{name}: cannot be read as Parquet ({reason})") from error


def _to_rows(batch: pa.RecordBatch, name: str, rows_before: int) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError as error:  # Parquet does not check that its strings are UTF-8
        raise _bad_string(batch, name, rows_before) from error
    return rows


def _bad_string(batch: pa.RecordBatch, name: str, rows_before: int) -> DataError:
    """Find the first string that is not UTF-8."""
    for row in range(batch.num_rows):
        for column in batch.schema.names:
            try:
                batch.column(column)[row].as_py()
            except UnicodeDecodeError as error:
                fault = _describe_bytes(column, error)
                return DataError(f"{name}:row {rows_before + row + 1}: {fault}")
    return DataError(f"{name}: a string is not UTF-8; convert the file")


def _to_line(row: dict[str, object], location: str) -> bytes:
    try:
        return orjson.dumps(row, default=_to_json)
    except orjson.JSONEncodeError as error:
        fault = next(_faults(row), f"cannot be written as JSON ({error}); convert the file")
        raise DataError(f"{location}: {fault}") from error


def _to_json(value: object) -> object:
    """Convert a value that orjson does not know; it may be anywhere in the row."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _faults(value: object, column: str = "") -> Iterator[str]:
    """Describe each value that has no form in JSON, with the dotted path of its column."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _faults(item, f"{column}.{name}" if column else str(name))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _faults(item, f"{column}.{position}")
    else:
        try:
            orjson.dumps(value, default=_to_json)
        except orjson.JSONEncodeError as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                yield _describe_bytes(column, error.__cause__)
            else:
                yield f"{column!r} holds {shorten(value)} ({error}); convert or drop the column"


def _describe_bytes(column: str, error: UnicodeDecodeError) -> str:
    return (
        f"{column!r} holds bytes that are not UTF-8 ({error.object[:30]!r}, {error.reason} "
        f"at byte {error.start}); convert or drop the column"
    )
