"""The index of a dataset: a table of its samples, and random access to their texts."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs

from featurize.data.records import CheckedRow, RowReader, Sample, parse_line
from featurize.data.scan import scan_files
from featurize.data.sources import Source, find_sources, seekable_copy
from featurize.data.table import (
    content_fingerprint,
    open_table,
    repeated_ids,
    respelt_languages,
    sort_by_content,
    with_sorted_dictionaries,
    write_table,
)
from featurize.data.verdicts import possible_labels
from featurize.errors import MAX_LISTED, DataError, RowFault, shorten

# Version of the cached table: raise it when the columns, the hashes or a rule of reading change.
_FORMAT_VERSION = 5
_FINGERPRINT = b"content_fingerprint"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetIndex:
    """All samples of a dataset without their texts, one row per sample, sorted by content.

    The sort keys are prompt_key, output_key and task_id. Neither the order nor the fingerprint
    depends on how the rows are spread over files and lines.
    """

    table: pa.Table  # see table.SCHEMA
    sources: tuple[Source, ...]  # the column `file` is a position in it
    copies: tuple[Path, ...]  # the file that the rows of each source are read from
    reader: RowReader

    @classmethod
    def build(
        cls,
        paths: str | Sequence[str],
        cache_dir: Path,
        *,
        workers: int | None = None,
        keeps_turns: bool = False,
        needs_labels: bool = True,
    ) -> "DatasetIndex":
        """Check and index a dataset, or open the table of an earlier build in `cache_dir`.

        Remote files are copied there first. `workers` is the number of processes that read; None
        chooses by size. With `keeps_turns`, prompts of several messages are conversations; else
        their messages are joined to a text, and earlier answers are refused.
        Without `needs_labels`, labels that cannot be read are unknown.

        Raises:
            DataError: bad rows, repeated ids or no rows; it names files and lines.
        """
        sources = find_sources(paths, cache_dir)
        copies = [seekable_copy(source, cache_dir) for source in sources]
        reader = RowReader(keeps_turns=keeps_turns, needs_labels=needs_labels)
        cached = cache_dir / f"index-{_cache_key(sources, reader)}.arrow"
        table = open_table(cached)
        if table is None:
            scanned = sort_by_content(scan_files(sources, copies, reader, workers=workers))
            table = _with_fingerprint(scanned)
            write_table(cached, table, check=partial(_check, table, sources))
            table = open_table(cached) or table  # memory-mapped: processes share its memory
            logger.info("indexed %d samples (files: %d)", len(table), len(sources))
        _warn_of_spellings(table)
        return cls(table=table, sources=tuple(sources), copies=tuple(copies), reader=reader)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def content_fingerprint(self) -> str:
        """The hash of the samples, wherever they are stored."""
        return str(self.table.schema.metadata[_FINGERPRINT], "ascii")

    @property
    def num_problems(self) -> int:
        """The number of distinct problem ids."""
        return len(self.table["problem_id"].unique())

    def read(self, rows: np.ndarray) -> list[Sample]:
        """Read the texts of `rows` [n] from the files; samples come in the order of `rows`.

        No file stays open afterwards, so that an index can be pickled and used after a fork.
        """
        names = ("file", "offset", "length", "line", "part", "task_id", "language")
        picked = self.table.select(names).take(pa.array(rows, pa.int64()))
        columns = zip(*(picked[name].to_pylist() for name in names), strict=True)
        samples: list[Sample] = [None] * len(rows)  # type: ignore[list-item]
        with ExitStack() as stack:
            opened = {file: self._open(file, stack) for file in picked["file"].unique().to_pylist()}
            # Both sides of a preference share a line.
            in_order = sorted(enumerate(columns), key=lambda row: row[1][:2])
            for place, same in groupby(in_order, key=lambda row: row[1][:4]):
                file, offset, length, line = place
                location = self.sources[file].location(line)
                parsed = self._read_line(os.pread(opened[file], length, offset), location)
                for n, (*_, part, task_id, language) in same:
                    # The table has the final id and language: equal default ids were numbered.
                    final = {"task_id": task_id, "language": language, "location": location}
                    samples[n] = structs.replace(parsed[max(part - 1, 0)].sample, **final)
        return samples

    def _read_line(self, line: bytes, location: str) -> list[CheckedRow]:
        try:
            return self.reader.read(line)
        except RowFault as fault:
            raise DataError(f"{location}: {fault}") from None

    def read_raw(self, row: int) -> object:
        """Parse the line of a row as it is, with the columns that no sample has."""
        file, offset, length = (
            int(self.table[name][row].as_py()) for name in ("file", "offset", "length")
        )
        with ExitStack() as stack:
            return parse_line(os.pread(self._open(file, stack), length, offset))

    def location(self, row: int) -> str:
        """Return file and line of a row."""
        return _location(self.table, row, self.sources)

    def take_problems(self, limit: int) -> "DatasetIndex":
        """Keep `limit` problems, chosen by a hash of their ids, whatever the order of files."""
        if limit < 1:
            raise DataError(f"the limit of problems is {limit}; it must be at least 1")
        problem_ids = self.table["problem_id"].unique().cast(pa.string()).to_pylist()
        problem_ids.sort(key=lambda problem_id: blake2b(problem_id.encode()).digest())
        kept = pa.array(problem_ids[:limit], pa.string())
        mask = pc.is_in(self.table["problem_id"].cast(pa.string()), value_set=kept)
        return self.take(mask.combine_chunks().to_numpy(zero_copy_only=False))

    def take(self, is_kept: np.ndarray) -> "DatasetIndex":
        """Keep some rows, bool [rows]; the fingerprint is that of the kept content alone."""
        table = with_sorted_dictionaries(self.table.filter(pa.array(is_kept)))
        return replace(self, table=_with_fingerprint(table))

    def _open(self, file: int, stack: ExitStack) -> int:
        source = self.sources[file]
        if source.has_changed():
            raise DataError(
                f"{source.name}: has changed since it was indexed; "
                "start again, so that the dataset is read as it is now"
            )
        try:
            return stack.enter_context(self.copies[file].open("rb")).fileno()
        except FileNotFoundError:
            raise DataError(
                f"{source.name}: its plain copy {str(self.copies[file])!r} is gone; "
                "start again, so that it is written again"
            ) from None


def _warn_of_spellings(table: pa.Table) -> None:
    for name, (spelling, count) in respelt_languages(table).items():
        logger.warning(
            "language %r of %d samples is taken as %r, another spelling of it",
            name,
            count,
            spelling,
        )


def _check(table: pa.Table, sources: Sequence[Source]) -> None:
    """Refuse a table without rows, or with repeated ids."""
    if not len(table):
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        raise DataError(f"{sources[0].name}{more}: holds no rows; the dataset needs at least one")
    repeated = repeated_ids(table)
    if not repeated:
        return
    remedy = "every row needs its own, or none"
    problems = [
        f"{_location(table, later, sources)}: 'task_id' {shorten(table['task_id'][later].as_py())}"
        f" is taken by {_location(table, first, sources)}; {remedy}"
        for first, later in repeated[:MAX_LISTED]
    ]
    kinds = {f"'task_id': {remedy}": len(repeated)}
    raise DataError(problems, total=len(repeated), kinds=kinds)


def _location(table: pa.Table, row: int, sources: Sequence[Source]) -> str:
    file, line = (int(table[name][row].as_py()) for name in ("file", "line"))
    return sources[file].location(line)


def _cache_key(sources: Sequence[Source], reader: RowReader) -> str:
    kind = [str(_FORMAT_VERSION), *(["turns"] if reader.keeps_turns else [])]
    kind += [] if reader.needs_labels else ["without labels"]
    content = "\0".join([*kind, *(source.key for source in sources)])
    return blake2b(content.encode()).hexdigest()[:16]


def _with_fingerprint(table: pa.Table) -> pa.Table:
    metadata = {**(table.schema.metadata or {}), _FINGERPRINT: content_fingerprint(table)}
    return table.replace_schema_metadata(metadata)


def why_no_pairs(index: DatasetIndex) -> str | None:
    """Say why no problem has a correct and an incorrect sample; None if one has both."""
    labels = index.table["is_correct"]
    if labels.null_count == len(index):
        return (
            f"none of the {len(index):,} samples has a label, so no pair can be made of them; name"
            f" its column with critic prepare columns --map is_correct=...{_columns(index)}"
        )
    if _has_both(index):
        return None
    counts = {value: pc.sum(pc.equal(labels, value)).as_py() for value in (True, False)}
    return (
        "no problem has a correct and an incorrect sample in one language, so no pair can be made"
        f" of the {counts[True]:,} correct and {counts[False]:,} incorrect ones; check problem_id,"
        " is_correct and metadata.language"
    )


def _has_both(index: DatasetIndex) -> bool:
    """Whether a problem has both labels in one language."""
    groups = index.table.group_by(["problem_id", "language"])
    labels = groups.aggregate([("is_correct", "min"), ("is_correct", "max")])
    has_both = pc.not_equal(labels["is_correct_min"], labels["is_correct_max"])
    return bool(pc.any(has_both).as_py())


def _columns(index: DatasetIndex) -> str:
    """The columns of the first row that may have the label."""
    found = possible_labels(index.read_raw(0))
    shown = ", ".join(f"{name!r} is {shorten(value)}" for name, value in found.items())
    return f" ({index.location(0)}: {shown})" if shown else ""
