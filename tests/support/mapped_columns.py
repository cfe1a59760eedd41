"""Samples made of rows with other columns, as `critic prepare columns` makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap, LabelValues
from featurize.data.prepare.prepared import Prepared
from tests.support.row_files import read_rows, write_rows


def labels(correct: str = "", incorrect: str = "") -> LabelValues:
    return LabelValues(correct=frozenset(correct.split()), incorrect=frozenset(incorrect.split()))


class Columns:
    """A folder with in.jsonl (or another file) to read and out.jsonl to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(
        self,
        rows: Any,
        *maps: str,
        source: str = "in.jsonl",
        out: str = "out.jsonl",
        correct: str = "",
        incorrect: str = "",
        **options: Any,
    ) -> Prepared:
        """Writes the rows, or the one row, and makes samples of them."""
        path = write_rows(self.folder / source, [rows] if isinstance(rows, dict) else rows)
        return self.prepare_files(
            [path], *maps, out=out, values=labels(correct, incorrect), **options
        )

    def prepare_files(
        self,
        paths: Sequence[Path],
        *maps: str,
        out: str = "out.jsonl",
        values: LabelValues | None = None,
        **options: Any,
    ) -> Prepared:
        sources, columns = [str(path) for path in paths], ColumnMap.parse(maps, values)
        job = ColumnsJob(sources=sources, out=self.folder / out, columns=columns, **options)
        return prepare_columns(job)

    def read(self, *names: str) -> list[Any]:
        """The samples, or of each these fields."""
        rows = read_rows(self.folder / "out.jsonl")
        return [tuple(row.get(name) for name in names) for row in rows] if names else rows
