"""The pairs a store was made for, stored in a column of its sample table."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints
from featurize.errors import FeatureStoreError
from featurize.store.statements import STATEMENT_COLUMN

PAIRS_COLUMN = "pairs"
"""Column with the numbers of a sample's pairs; is_correct says on which side it is."""

_RECORD = b"critic.pairs"  # in the metadata of the table's schema


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPairs:
    """Pairs of rows of a sample table, in the order they were sampled."""

    correct: Ints
    """Row of each pair's correct sample, [pairs]."""
    incorrect: Ints
    """Row of each pair's incorrect sample, [pairs]."""
    record: dict[str, Any]
    """The sampling settings as JSON; only the sampler reads it."""

    @property
    def rows(self) -> Ints:
        """Rows of the table that are in any pair, ascending."""
        return np.unique(np.concatenate([self.correct, self.incorrect]))


def mark_pairs(samples: pa.Table, pairs: PlannedPairs) -> pa.Table:
    """Append the column of pairs and their record to a sample table."""
    rows = np.concatenate([pairs.correct, pairs.incorrect])
    numbers = np.tile(np.arange(len(pairs.correct), dtype=np.int32), 2)
    ends = np.cumsum(np.bincount(rows, minlength=samples.num_rows)).astype(np.int32)
    values = pa.array(numbers[np.argsort(rows, kind="stable")])
    marks = pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), values)
    return _with_record(
        samples.append_column(PAIRS_COLUMN, marks), json.dumps(pairs.record).encode()
    )


def copy_marks(samples: pa.Table, marked: pa.Table) -> pa.Table:
    """Append statements and pairs of `marked`, if it has any, to another table of the same rows."""
    if STATEMENT_COLUMN in marked.column_names:
        column = marked[STATEMENT_COLUMN].combine_chunks()
        samples = samples.append_column(STATEMENT_COLUMN, column)
    if PAIRS_COLUMN not in marked.column_names:
        return samples
    table = samples.append_column(PAIRS_COLUMN, marked[PAIRS_COLUMN].combine_chunks())
    return _with_record(table, marked.schema.metadata[_RECORD])


def read_pairs(samples: pa.Table) -> PlannedPairs | None:
    """The pairs of a whole sample table; None if it has no such column.

    Raises:
        FeatureStoreError: samples of a pair are missing.
    """
    if PAIRS_COLUMN not in samples.column_names:
        return None
    marks = samples[PAIRS_COLUMN].combine_chunks()
    owners = np.repeat(np.arange(samples.num_rows), pc.list_value_length(marks).to_numpy())
    numbers = marks.flatten().to_numpy()
    labels = pc.fill_null(samples["is_correct"], False).to_numpy()[owners]
    pairs = np.full((2, int(numbers.max(initial=-1)) + 1), -1, np.int64)
    pairs[0, numbers[labels]] = owners[labels]
    pairs[1, numbers[~labels]] = owners[~labels]
    record = (samples.schema.metadata or {}).get(_RECORD)
    if record is None or (pairs < 0).any():
        raise FeatureStoreError(
            "the store lacks samples of the pairs it was made for; make the features again "
            "with `critic featurize --overwrite`"
        )
    return PlannedPairs(correct=pairs[0], incorrect=pairs[1], record=json.loads(record))


def _with_record(samples: pa.Table, record: bytes) -> pa.Table:
    return samples.replace_schema_metadata({**(samples.schema.metadata or {}), _RECORD: record})
