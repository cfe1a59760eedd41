"""What is noted of the lines of a file while it is scanned: samples by column, and bad lines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurize.data.arrays import Column, empty_column
from featurize.data.errors import MAX_LISTED, RowFault, kind_of
from featurize.data.keys import task_id_checks
from featurize.data.lines import parse_line
from featurize.data.plain import Columns
from featurize.data.records import CheckedRow, check_row

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
    _columns: dict[str, Column] = field(
        default_factory=lambda: {field.name: empty_column(field.type) for field in SCAN_SCHEMA}
    )

    def add_plain(self, columns: Columns, lengths: Sequence[int], offset: int) -> None:
        """Add lines of one sample each; `offset` is where the first one starts."""
        in_bytes = np.array(lengths, np.int64)
        first = self.num_lines + 1
        places: Columns = {
            "line": np.arange(first, first + len(lengths), dtype=np.int32),
            "offset": offset + np.cumsum(in_bytes) - in_bytes,
            "length": in_bytes,
            "part": np.zeros(len(lengths), np.int8),
        }
        self._extend(columns | places)
        self.num_lines += len(lengths)

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
        self._extend(_to_columns(rows) | places)

    def to_table(self) -> pa.Table:
        """Return the samples."""
        arrays = [column.to_array() for column in self._columns.values()]
        return pa.Table.from_arrays(arrays, schema=SCAN_SCHEMA)

    def _check(self, line: bytes) -> list[CheckedRow]:
        try:
            return check_row(parse_line(line))
        except RowFault as fault:
            self.kinds[kind_of(str(fault))] += 1
            if len(self.faults) < MAX_LISTED:
                self.faults.append(Fault(self.num_lines, str(fault)))
            return []

    def _extend(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._columns[name].extend(values)


def _to_columns(rows: Sequence[CheckedRow]) -> Columns:
    """Return what `plain_columns` returns, of rows that were checked one by one."""
    same = ("problem_id", "is_correct", "language", "difficulty", "source")
    keys = ("prompt_key", "output_key", "has_default_id")
    columns: Columns = {name: [getattr(row, name) for row in rows] for name in (*same, *keys)}
    task_ids = [row.task_id.encode() for row in rows]
    return columns | {
        "task_id": task_ids,
        "prompt_chars": [len(row.instruction) + len(row.input) for row in rows],
        "output_chars": [len(row.output) for row in rows],
        "task_id_check": task_id_checks(task_ids),
    }
