"""Writes samples to a JSONL or Parquet file, whole or not at all, as they come."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from featurize.errors import CriticError
from featurize.io.files import atomic_path

Row: TypeAlias = dict[str, Any]

ENDINGS = (".jsonl", ".parquet")
_GROUP_ROWS = 8192
_GROUP_CHARS = 32 << 20

TEXT_METADATA = {"source": pa.string(), "language": pa.string(), "difficulty": pa.string()}


@contextlib.contextmanager
def sample_writer(
    path: Path, *, metadata: Mapping[str, pa.DataType]
) -> Iterator[Callable[[Row], None]]:
    """Yields a function that writes one sample; `metadata` names the fields a sample has there.

    A Parquet file has the same columns whatever the samples hold; JSONL holds what they hold.
    """
    if path.suffix not in ENDINGS:
        raise CriticError(f"{str(path)!r} has an unknown ending; known are {', '.join(ENDINGS)}")
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            with _parquet_writer(temporary, metadata) as write:
                yield write
        else:
            with temporary.open("wb", buffering=1 << 20) as file:
                yield lambda row: _write_line(file.write, row)


def _write_line(write: Callable[[bytes], int], row: Row) -> None:
    write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


@contextlib.contextmanager
def _parquet_writer(
    path: Path, metadata: Mapping[str, pa.DataType]
) -> Iterator[Callable[[Row], None]]:
    schema = pa.schema(
        {
            **dict.fromkeys(("instruction", "input", "output"), pa.string()),
            "is_correct": pa.bool_(),
            **dict.fromkeys(("problem_id", "task_id"), pa.string()),
            "metadata": pa.struct(list(metadata.items())),
        }
    )
    rows: list[Row] = []
    num_chars = 0
    with pq.ParquetWriter(str(path), schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal num_chars
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()
            num_chars = 0

        def write(row: Row) -> None:
            nonlocal num_chars
            rows.append(row)
            num_chars += len(row["instruction"]) + len(row["output"])
            if len(rows) >= _GROUP_ROWS or num_chars >= _GROUP_CHARS:
                flush()

        yield write
        if rows:
            flush()
