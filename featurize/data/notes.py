"""What is noted of the lines of a file while it is scanned: samples by column, and bad lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurize.data.arrays import Column, empty_column
from featurize.data.contexts import Contexts
from featurize.data.keys import task_id_checks
from featurize.data.lines import parse_line
from featurize.data.plain import PlainColumns
from featurize.data.records import CheckedRow, check_row
from featurize.errors import MAX_LISTED, RowFault, kind_of

# One row a sample. `part`: 0 a plain row, 1 and 2 the chosen and rejected side of a preference.
SCAN_SCHEMA = pa.schema(
    {
        "task_id": pa.string(),
        "problem_id": pa.dictionary(pa.int32(), pa.string()),
        "is_correct": pa.bool_(),
        "language": pa.dictionary(pa.int32(), pa.string()),
        "difficulty": pa.dictionary(pa.int32(), pa.string()),
        "source": pa.dictionary(pa.int32(), pa.string()),
        "line": pa.int32(),
        "offset": pa.int64(),
        "length": pa.int32(),
        "part": pa.int8(),
        "prompt_key": pa.binary(16),
        "output_key": pa.binary(16),
        "prompt_chars": pa.int32(),
        "output_chars": pa.int32(),
        "has_default_id": pa.bool_(),
        "task_id_check": pa.uint64(),
    }
)
# What each row has of its own; the rest follows from its context.
_OWN = (
    "task_id", "is_correct", "line", "offset", "length", "part",
    "output_key", "output_chars", "has_default_id", "task_id_check",
)  # fmt: skip


class Fault(NamedTuple):
    """What is wrong with one line."""

    line: int
    message: str


@dataclass(kw_only=True, slots=True)
class Notes:
    """Samples and faults of the lines so far; lines count from 1."""

    num_lines: int = 0
    faults: list[Fault] = field(default_factory=list)  # the first few
    kinds: Counter[str] = field(default_factory=Counter)  # how many faults there are of each
    _contexts: Contexts = field(default_factory=Contexts)
    _columns: dict[str, Column] = field(
        default_factory=lambda: {name: empty_column(SCAN_SCHEMA.field(name).type) for name in _OWN}
    )

    def add_plain(self, columns: PlainColumns, lengths: np.ndarray, offset: int) -> None:
        """Add lines of one sample each, of int64 [lines] bytes, the first of them at `offset`."""
        first = self.num_lines + 1
        self.num_lines += len(lengths)
        self._contexts.extend(columns.contexts)
        self._extend(
            columns.own
            | {
                "line": np.arange(first, first + len(lengths), dtype=np.int32),
                "offset": offset + np.cumsum(lengths) - lengths,
                "length": lengths,
                "part": np.zeros(len(lengths), np.int8),
            }
        )

    def add_any(self, lines: Sequence[bytes], offset: int) -> None:
        """Add lines one by one, whatever they hold."""
        rows: list[CheckedRow] = []
        places: dict[str, list[int]] = {"line": [], "offset": [], "length": [], "part": []}
        for line in lines:
            self.num_lines += 1
            checked = [] if line.isspace() else self._check(line)
            for part, row in enumerate(checked, start=len(checked) > 1):
                rows.append(row)
                place = (self.num_lines, offset, len(line), part)
                for values, value in zip(places.values(), place, strict=True):
                    values.append(value)
            offset += len(line)
        self._contexts.extend(
            (row.instruction, row.input, row.problem_id, row.language, row.difficulty, row.source)
            for row in rows
        )
        self._extend(_own_columns(rows) | places)

    def to_table(self) -> pa.Table:
        """Return the samples."""
        arrays = {name: column.to_array() for name, column in self._columns.items()}
        arrays |= self._contexts.to_arrays()
        return pa.Table.from_arrays(
            [arrays[name] for name in SCAN_SCHEMA.names], schema=SCAN_SCHEMA
        )

    def _check(self, line: bytes) -> list[CheckedRow]:
        try:
            return check_row(parse_line(line))
        except RowFault as fault:
            self.kinds[kind_of(str(fault))] += 1
            if len(self.faults) < MAX_LISTED:
                self.faults.append(Fault(self.num_lines, str(fault)))
            return []

    def _extend(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        for name, values in columns.items():
            self._columns[name].extend(values)


def _own_columns(rows: Sequence[CheckedRow]) -> dict[str, Sequence[Any] | np.ndarray]:
    """Return `PlainColumns.own` of rows that were checked one by one."""
    task_ids = [row.task_id.encode() for row in rows]
    return {
        "task_id": task_ids,
        "is_correct": [row.is_correct for row in rows],
        "output_key": [row.output_key for row in rows],
        "output_chars": [len(row.output) for row in rows],
        "has_default_id": [row.has_default_id for row in rows],
        "task_id_check": task_id_checks(task_ids),
    }
