"""Problems with several statements: pairs are made within one statement, never across two."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints

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
