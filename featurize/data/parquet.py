"""Rows of a Parquet file as lines of JSON: bytes become text, maps objects, nothing a `repr`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

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
            _refuse_repeated(file.schema_arrow.names, columns, name)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                maps = {
                    field.name: field.type
                    for field in batch.schema
                    if _holds(field.type, pa.types.is_map)
                }
                floats = [
                    field.name for field in batch.schema if _holds(field.type, pa.types.is_floating)
                ]
                for row in _to_rows(batch, name, number):
                    number += 1
                    location = f"{name}:row {number}"
                    row = _with_objects(row, maps, location)
                    _refuse_infinite({column: row[column] for column in floats}, location)
                    yield _to_line(row, location)
    except (pa.ArrowException, OSError) as error:
        reason = shorten(str(error).splitlines()[0], 120)
        raise DataError(f"{name}: cannot be read as Parquet ({reason})") from error


def _refuse_repeated(names: Sequence[str], columns: Sequence[str] | None, file: str) -> None:
    """Raise DataError if two columns that are read have one name: a row would have one of them."""
    read = [name for name in names if columns is None or name in columns]
    if repeated := next((name for name in read if read.count(name) > 1), None):
        raise DataError(f"{file}: has two columns {repeated!r}; rename or drop one")


def _to_rows(batch: pa.RecordBatch, name: str, rows_before: int) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError as error:  # Parquet does not check that its strings are UTF-8
        raise _bad_string(batch, name, rows_before) from error
    return rows


def _holds(kind: pa.DataType, is_wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type is of a kind, or has one inside."""
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, is_wanted)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return is_wanted(kind) or any(_holds(part, is_wanted) for part in inner)


def _refuse_infinite(row: dict[str, object], location: str) -> None:
    """Raise DataError if a value is inf; NaN is what pandas writes for a missing value."""
    for column, value in _leaves(row):
        if isinstance(value, float) and math.isinf(value):
            raise DataError(
                f"{location}: {column!r} is {value}, which JSON cannot hold; replace it or"
                " drop the column"
            )


def _with_objects(
    row: dict[str, object], maps: Mapping[str, pa.DataType], location: str
) -> dict[str, object]:
    """Turn the maps of a row, which Arrow gives as lists of pairs, into objects."""
    for name, kind in maps.items():
        try:
            row[name] = _to_objects(row[name], kind)
        except ValueError as error:
            raise DataError(f"{location}: {name!r} {error}; convert or drop the column") from error
    return row


def _to_objects(value: Any, kind: pa.DataType) -> Any:
    """Turn the maps inside a value into objects.

    Raises:
        ValueError: a map has a key twice, or one that is no text.
    """
    if value is None or not _holds(kind, pa.types.is_map):
        return value
    if pa.types.is_struct(kind):
        return {part.name: _to_objects(value[part.name], part.type) for part in kind}
    if not pa.types.is_map(kind):
        return [_to_objects(item, kind.value_type) for item in value]
    items = [(_to_name(key), _to_objects(item, kind.item_type)) for key, item in value]
    names = [name for name, _ in items]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"is a map with the key {shorten(repeated)} twice")
    return dict(items)


def _to_name(key: object) -> str:
    """The key of a map as the name of a field."""
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"is a map with a key that is not UTF-8 ({key[:30]!r})") from error
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ValueError(f"is a map with the key {shorten(key)}, which is no text")
    return str(key)


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


def _faults(row: dict[str, object]) -> Iterator[str]:
    """Describe each value that has no form in JSON, with the dotted path of its column."""
    for column, value in _leaves(row):
        try:
            orjson.dumps(value, default=_to_json)
        except orjson.JSONEncodeError as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                yield _describe_bytes(column, error.__cause__)
            else:
                yield f"{column!r} holds {shorten(value)} ({error}); convert or drop the column"


def _leaves(value: object, column: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values inside lists and objects, each with the dotted path of its column."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{column}.{name}" if column else str(name))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{column}.{position}")
    else:
        yield column, value


def _describe_bytes(column: str, error: UnicodeDecodeError) -> str:
    return (
        f"{column!r} holds bytes that are not UTF-8 ({error.object[:30]!r}, {error.reason} "
        f"at byte {error.start}); convert or drop the column"
    )
