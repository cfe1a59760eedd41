"""Reads datasets through the index, and lines by themselves: their rows, or what is wrong."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from featurize.data.index import DatasetIndex
from featurize.data.records import CheckedRow, RowReader, Sample, check_row, parse_line
from featurize.errors import RowFault


def parse_row(
    row: object, location: str = "a.jsonl:1", *, keeps_turns: bool = False
) -> list[Sample]:
    """The samples of one row."""
    checked = check_row(row, keeps_turns=keeps_turns)
    return [replace(one.sample, location=location) for one in checked]


def read_samples(paths: str | Sequence[str]) -> list[Sample]:
    """All samples of files or globs, in the order of their files and lines."""
    with tempfile.TemporaryDirectory() as folder:
        index = DatasetIndex.build(paths, Path(folder))
        places = [index.table[name].to_numpy() for name in ("part", "line", "file")]
        return index.read(np.lexsort(places))


Facts = tuple[Sample, bytes, int, bytes, bool]
"""A sample; the key and length of its prompt; the key of its output; whether its id is made."""


def facts_of(row: CheckedRow) -> Facts:
    prompt = row.prompt
    return row.sample, prompt.key, prompt.num_chars, row.output_key, row.has_default_id


def carefully(line: bytes) -> list[Facts] | str:
    """Read a line as the careful way does."""
    try:
        return [facts_of(row) for row in check_row(parse_line(line))]
    except RowFault as fault:
        return str(fault)


def read(line: bytes, reader: RowReader) -> list[Facts] | str:
    """Read a line as the reader does."""
    try:
        return [facts_of(row) for row in reader.read(line)]
    except RowFault as fault:
        return str(fault)
