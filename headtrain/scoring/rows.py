"""From samples back to the rows of a file: which fields each row is given, in the file's order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurize.data.records import DataError
from headtrain.scoring.values import RANK, Numbers

SIDES = ("", "chosen_", "rejected_")
"""What stands before a field's name, by the part of its row a sample is: a plain row is one sample,
a preference row two."""

Fields = dict[str, float | int]


@dataclass(frozen=True, kw_only=True)
class RowFields:
    """What one row of a file is given."""

    file: int
    line: int
    """Counted from 1, as messages count."""
    fields: Fields


def field_names(index: pa.Table, columns: Sequence[str], prefix: str) -> list[str]:
    """The fields any row of the file will have: of a file of preferences those of both sides."""
    parts = np.unique(index["part"].to_numpy()).tolist()
    return [f"{prefix}{SIDES[part]}{name}" for part in parts for name in columns]


def fields_of_rows(
    index: pa.Table, columns: Mapping[str, Numbers], prefix: str
) -> Iterator[RowFields]:
    """The fields of every row, in the order of files and lines; columns are [samples of index]."""
    files, lines, parts = (index[name].to_numpy() for name in ("file", "line", "part"))
    now: RowFields | None = None
    for sample in np.lexsort((parts, lines, files)).tolist():
        file, line = int(files[sample]), int(lines[sample])
        if now is None or (now.file, now.line) != (file, line):
            if now is not None:
                yield now
            now = RowFields(file=file, line=line, fields={})
        side = prefix + SIDES[parts[sample]]
        for name, values in columns.items():
            value = values[sample]
            now.fields[side + name] = int(value) if name == RANK else float(value)
    if now is not None:
        yield now


def refuse_taken(present: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raises DataError where a row has a field of a name that is to be written."""
    taken = [name for name in names if name in present]
    if taken:
        raise DataError(
            f"{where}: has a field {taken[0]!r} already, and no field of a row is replaced; "
            "write the scores under other names: --prefix critic_"
        )
