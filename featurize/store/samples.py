"""The sample table of a whole store, read from the tables of its units or from one joined file."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurize.store.manifest import SAMPLES_FILE, DamagedFileError, Unit

TABLES_AT_ONCE = 128
"""Tables of units read in one go. A larger store also has them joined in one file: each small file
costs a millisecond, or a request if the store is remote."""

Borrow = Callable[[Sequence[Unit]], AbstractContextManager[Path]]
"""Provides a folder with the tables of units while its block runs."""


def read_samples(
    store: Path | str, folder: Path, units: Sequence[Unit], *, first_row: int = 0
) -> pa.Table:
    """The samples of all units in order; feature_row is turned from unit-wide to store-wide.

    Args:
        store: for messages.
        folder: holds the files of the units.
        units: from the manifest.
        first_row: feature rows of the store before these units.

    Raises:
        FeatureStoreError: a table is missing, unreadable or has another length than its unit.
    """
    paths = [folder / f"{unit.number:05d}.parquet" for unit in units]
    try:
        import pyarrow.dataset as ds  # half a second, most of it pandas

        # Thousands of small files: Arrow reads them with all its threads, in this order.
        table = ds.dataset([str(path) for path in paths], format="parquet").to_table()
    except (pa.ArrowException, OSError):
        table = None
    if table is None or table.num_rows != sum(unit.samples for unit in units):
        # Read one by one to find out which it is.
        table = pa.concat_tables(
            _read_table(store, *each) for each in zip(paths, units, strict=True)
        )
    starts = np.cumsum([first_row, *(unit.feature_rows for unit in units)])[:-1]
    shifts = np.repeat(starts, [unit.samples for unit in units])
    rows = pa.array(table["feature_row"].to_numpy() + shifts)
    return table.set_column(table.schema.get_field_index("feature_row"), "feature_row", rows)


def join_samples(target: Path, store: Path | str, units: Sequence[Unit], borrow: Borrow) -> None:
    """Write what `read_samples` would return, with the memory of a few units.

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
        DamagedFileError: it is missing or differs from the manifest.
    """
    try:
        content = (folder / SAMPLES_FILE).read_bytes()
    except OSError as error:
        raise DamagedFileError(store, SAMPLES_FILE, error) from error
    if hashlib.blake2b(content, digest_size=16).hexdigest() != expected["checksum"]:
        raise DamagedFileError(store, SAMPLES_FILE, "another checksum")
    return pq.read_table(pa.BufferReader(content))


def _read_table(store: Path | str, path: Path, unit: Unit) -> pa.Table:
    """The table of one unit; its length must be that in the manifest."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(store, path.name, error) from error
    if table.num_rows != unit.samples:
        reason = f"{table.num_rows} rows where the manifest says {unit.samples}"
        raise DamagedFileError(store, path.name, reason)
    return table
