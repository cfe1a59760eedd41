"""The sample table of a whole store, from the tables of its units."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurize.store.format import DamagedFileError, Unit


def read_samples(store: Path | str, folder: Path, units: Sequence[Unit]) -> pa.Table:
    """All units' samples in order; feature_row, in a file that of its unit, is that of the store.

    Args:
        store: where the store is, for messages.
        folder: where the files of its units are.
        units: the units as the manifest names them.

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
    starts = np.cumsum([0, *(unit.feature_rows for unit in units)])[:-1]
    shifts = np.repeat(starts, [unit.samples for unit in units])
    rows = pa.array(table["feature_row"].to_numpy() + shifts)
    return table.set_column(table.schema.get_field_index("feature_row"), "feature_row", rows)


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
