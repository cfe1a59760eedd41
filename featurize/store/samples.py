"""The sample table of a whole store, from the tables of its units or from the one they make up."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurize.store.format import SAMPLES_FILE, DamagedFileError, Unit

TABLES_AT_ONCE = 128
"""Tables of units that are read in one go. A store of more has them joined in a file as well: each
small file takes a reader a millisecond, and a reader from afar a request."""

Borrow = Callable[[Sequence[Unit]], AbstractContextManager[Path]]
"""Gives the folder in which the tables of units are, for a while."""


def read_samples(
    store: Path | str, folder: Path, units: Sequence[Unit], *, first_row: int = 0
) -> pa.Table:
    """All units' samples in order; feature_row, in a file that of its unit, is that of the store.

    Args:
        store: where the store is, for messages.
        folder: where the files of its units are.
        units: the units as the manifest names them.
        first_row: feature rows of the store before these units.

    Raises:
        FeatureStoreError: a table is missing, unreadable or not of the length its unit has.
    """
    paths = [folder / f"{unit.number:05d}.parquet" for unit in units]
    try:
        # Thousands of small files: Arrow reads them with all its threads, in this order.
        table = ds.dataset([str(path) for path in paths], format="parquet").to_table()
    except (pa.ArrowException, OSError):
        table = None
    if table is None or table.num_rows != sum(unit.samples for unit in units):
        # One by one tells which it is.
        table = pa.concat_tables(
            _read_table(store, *each) for each in zip(paths, units, strict=True)
        )
    starts = np.cumsum([first_row, *(unit.feature_rows for unit in units)])[:-1]
    shifts = np.repeat(starts, [unit.samples for unit in units])
    rows = pa.array(table["feature_row"].to_numpy() + shifts)
    return table.set_column(table.schema.get_field_index("feature_row"), "feature_row", rows)


def join_samples(target: Path, store: Path | str, units: Sequence[Unit], borrow: Borrow) -> None:
    """Writes what `read_samples` would return; the memory it takes is that of a few units.

    Raises:
        FeatureStoreError: the table of a unit is damaged.
    """
    first_row = 0
    with ExitStack() as stack:
        writer = None
        for start in range(0, len(units), TABLES_AT_ONCE):
            some = units[start : start + TABLES_AT_ONCE]
            with borrow(some) as folder:
                table = read_samples(store, folder, some, first_row=first_row)
            if writer is None:
                writer = stack.enter_context(
                    pq.ParquetWriter(target, table.schema, compression="zstd")
                )
            writer.write_table(table)
            first_row += sum(unit.feature_rows for unit in some)


def read_joined(store: Path | str, folder: Path, expected: Mapping[str, Any]) -> pa.Table:
    """The table that `join_samples` wrote.

    Raises:
        DamagedFileError: it is not there, or not the one the manifest names.
    """
    try:
        content = (folder / SAMPLES_FILE).read_bytes()
    except OSError as error:
        raise DamagedFileError(store, SAMPLES_FILE, error) from error
    if hashlib.blake2b(content, digest_size=16).hexdigest() != expected["checksum"]:
        raise DamagedFileError(store, SAMPLES_FILE, "another checksum")
    return pq.read_table(pa.BufferReader(content))


def _read_table(store: Path | str, path: Path, unit: Unit) -> pa.Table:
    """The table of one unit, of the length the manifest says."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(store, path.name, error) from error
    if table.num_rows != unit.samples:
        reason = f"{table.num_rows} rows where the manifest says {unit.samples}"
        raise DamagedFileError(store, path.name, reason)
    return table
