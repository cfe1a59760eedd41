"""The table of samples: its columns, statements and planned pairs, and how it is read."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurize.arrays import Ints
from featurize.errors import FeatureStoreError
from featurize.store.manifest import SAMPLES_FILE, DamagedFileError, Unit

LIKELIHOOD_COLUMNS = ("logprob_sum", "logprob_mean", "logprob_min", "entropy_mean")
"""Log-probability of the output given the prompt, in nats, and mean next-token entropy."""

ANSWER_COLUMNS = ("yes_logprob", "no_logprob")
"""Log-probabilities of the two answers to the question after the output, in nats."""

SAMPLE_SCHEMA = pa.schema(
    [
        ("task_id", pa.string()),
        ("problem_id", pa.string()),
        ("is_correct", pa.bool_()),
        ("language", pa.string()),
        ("difficulty", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("prompt_truncated", pa.bool_()),
        ("output_truncated", pa.bool_()),
        ("feature_row", pa.int64()),
    ]
)


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
        # Read one by one to find out which it is. Earlier versions gave a unit without any author
        # a column of no type, which is promoted here.
        tables = [_read_table(store, *each) for each in zip(paths, units, strict=True)]
        table = pa.concat_tables(tables, promote_options="default")
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


STATEMENT_COLUMN = "statement"
"""Number of a sample's statement among those of its problem_id, if one has several."""

SHARED_IDS_REMEDY = (
    "only outputs of one statement are paired; give every statement its own problem_id"
    " (files that number their problems from 0 need a prefix each)"
)

_BY_LENGTH = (
    " (the store is of an earlier version, which tells statements apart by their number of tokens"
    " only: featurize again)"
)


@dataclass(frozen=True, kw_only=True)
class SharedIds:
    """The problem ids that several statements share."""

    num_problems: int
    """Their number."""
    num_all: int
    """All problem ids."""
    first: str
    """The first of them."""
    rows: tuple[int, ...]
    """Rows of two samples of its first two statements."""
    are_lengths: bool = False
    """Whether statements of the same length could not be told apart."""

    def __str__(self) -> str:
        return (
            f"{self.num_problems:,} of {self.num_all:,} problem ids have several statements,"
            f" the first is {self.first!r}" + (_BY_LENGTH if self.are_lengths else "")
        )


def mark_statements(samples: pa.Table) -> pa.Table:
    """Append the column of statements to an index's table; unchanged if every problem has one."""
    statements = _find_statements(samples)
    if statements.are_alone:
        return samples
    starts = np.searchsorted(statements.problems, statements.problems)  # first of its problem
    numbers = np.arange(len(starts)) - starts
    column = pa.array(numbers[statements.of_rows].astype(np.int32))
    return samples.append_column(STATEMENT_COLUMN, column)


def statement_codes(samples: pa.Table) -> Ints:
    """Code of each sample's statement, [rows]; within a problem, equal codes are one statement.

    NOTE: a store made before there was a column for it has the tokens of the prompts, which tell
    apart statements of different length.
    """
    for name in (STATEMENT_COLUMN, "prompt_key", "prompt_tokens"):
        if name in samples.column_names:
            return _codes(samples[name])
    return np.zeros(samples.num_rows, np.int64)


def find_shared_ids(samples: pa.Table) -> SharedIds | None:
    """Find the problem ids with several statements in a sample table; None without any."""
    statements = _find_statements(samples)
    if statements.are_alone:
        return None
    problems, counts = np.unique(statements.problems, return_counts=True)
    is_first = statements.problems == problems[counts > 1][0]
    rows = sorted(statements.first_rows[is_first][:2].tolist())
    return SharedIds(
        num_problems=int((counts > 1).sum()),
        num_all=len(problems),
        first=samples["problem_id"][rows[0]].as_py(),
        rows=tuple(rows),
        are_lengths=not {STATEMENT_COLUMN, "prompt_key"} & set(samples.column_names),
    )


class _Statements(NamedTuple):
    """The distinct statements of a table, by problem."""

    problems: Ints  # [statements] code of its problem, ascending
    first_rows: Ints  # [statements] its first sample
    of_rows: Ints  # [rows] statement of each sample

    @property
    def are_alone(self) -> bool:
        """Whether every problem has one statement."""
        return not (self.problems[1:] == self.problems[:-1]).any()


def _find_statements(samples: pa.Table) -> _Statements:
    problems, statements = _codes(samples["problem_id"]), statement_codes(samples)
    width = int(statements.max(initial=0)) + 1
    keys, first, of_rows = np.unique(
        problems * width + statements, return_index=True, return_inverse=True
    )
    return _Statements(keys // width, first, of_rows.reshape(-1))


def _codes(column: pa.ChunkedArray) -> Ints:
    """Numbers as they are, other values as codes in the order of their first rows, [rows]."""
    whole = column.combine_chunks()
    if pa.types.is_integer(whole.type):
        return np.asarray(whole.to_numpy(), np.int64)
    encoded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(), np.int64)


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
