"""The table of a dataset's samples, by which planning works and single texts are read."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.data.columns import (
    content_fingerprint,
    to_canonical,
    with_sorted_dictionaries,
)
from featurize.data.lines import parse_line
from featurize.data.records import Sample, check_row, to_sample
from featurize.data.scan import CHUNK_BYTES, ScannedChunk, scan_files
from featurize.data.sources import Source, find_sources
from featurize.data.spool import seekable_copy
from featurize.errors import MAX_LISTED, DataError, RowFault, shorten
from featurize.io.files import atomic_path

# Of the cached table; a change of its columns, its hashes or of a rule of reading raises it.
_FORMAT_VERSION = 2
_FINGERPRINT = b"content_fingerprint"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetIndex:
    """All samples of a dataset but for their texts, one row a sample, in an order of content.

    Rows are sorted by prompt_key, output_key and task_id. Neither this order nor the fingerprint
    depends on how the rows are spread over files and lines.
    """

    table: pa.Table  # see columns.INDEX_COLUMNS
    sources: tuple[Source, ...]  # what the column `file` counts
    copies: tuple[Path, ...]  # where the rows of each source are read from
    content_fingerprint: str

    @classmethod
    def build(
        cls,
        paths: str | Sequence[str],
        cache_dir: Path,
        *,
        workers: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> "DatasetIndex":
        """Check and index a dataset, or open the table that an earlier build left in `cache_dir`.

        What lies at a URI is copied there first. `workers` processes read it; None takes as many
        as its size is worth.
        """
        sources = find_sources(paths, cache_dir)
        copies = [seekable_copy(source, cache_dir) for source in sources]
        cached = cache_dir / f"index-{_cache_key(sources)}.arrow"
        table = _open_table(cached)
        if table is None:
            table = _scan(sources, copies, workers, chunk_bytes)
            fingerprint = content_fingerprint(table)
            _write_table(table.replace_schema_metadata({_FINGERPRINT: fingerprint}), cached)
            table = _open_table(cached) or table  # mapped, so that processes share its memory
            logger.info("indexed %d samples of %d files", len(table), len(sources))
        return cls(
            table=table,
            sources=tuple(sources),
            copies=tuple(copies),
            content_fingerprint=table.schema.metadata[_FINGERPRINT].decode(),
        )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def num_problems(self) -> int:
        """How many different problem ids there are."""
        return len(self.table["problem_id"].unique())

    def location(self, row: int) -> str:
        """Return the file and line of a row, for messages."""
        file, line = (self.table[name][row].as_py() for name in ("file", "line"))
        return self.sources[int(file)].location(int(line))

    def read(self, rows: np.ndarray) -> list[Sample]:
        """Read the texts of `rows` [n] from the files, in the order asked for.

        No file stays open in between, so that an index may be pickled or used after a fork.
        """
        names = ("file", "line", "offset", "length", "part")
        picked = self.table.select(["task_id", *names]).take(pa.array(rows, pa.int64()))
        files, lines, offsets, lengths, parts = (picked[name].to_numpy() for name in names)
        task_ids = picked["task_id"].to_pylist()
        samples: list[Sample | None] = [None] * len(task_ids)
        with ExitStack() as stack:
            descriptors = {int(file): self._open(int(file), stack) for file in np.unique(files)}
            place, parsed = (-1, -1), list[Sample]()
            for row in np.lexsort((offsets, files)).tolist():  # as they lie on the disk
                file, offset = int(files[row]), int(offsets[row])
                if place != (file, offset):  # both sides of a preference lie in one line
                    line = os.pread(descriptors[file], int(lengths[row]), offset)
                    parsed = self._parse(line, file, int(lines[row]))
                    place = (file, offset)
                side = parsed[max(int(parts[row]) - 1, 0)]
                # The id of the table counts: a default id may have got a suffix.
                samples[row] = replace(side, task_id=task_ids[row])
        return [sample for sample in samples if sample is not None]

    def take_problems(self, limit: int) -> "DatasetIndex":
        """Keep `limit` problems, chosen by the hash of their ids and so the same in any file."""
        if limit < 1:
            raise DataError(f"the limit of problems is {limit}; it must be at least 1")
        problem_ids = self.table["problem_id"].unique().cast(pa.string()).to_pylist()
        problem_ids.sort(key=lambda problem_id: blake2b(problem_id.encode()).digest())
        kept = pa.array(problem_ids[:limit], pa.string())
        mask = pc.is_in(self.table["problem_id"].cast(pa.string()), value_set=kept)
        return self.take(mask.combine_chunks().to_numpy(zero_copy_only=False))

    def take(self, is_kept: np.ndarray) -> "DatasetIndex":
        """Keep some rows, bool [rows]; the fingerprint is that of their content alone."""
        kept = self.table.filter(pa.array(is_kept))
        table = with_sorted_dictionaries(kept).combine_chunks()
        fingerprint = content_fingerprint(table)
        table = table.replace_schema_metadata({_FINGERPRINT: fingerprint})
        return replace(self, table=table, content_fingerprint=fingerprint)

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
                "start again, so that it is made anew"
            ) from None

    def _parse(self, line: bytes, file: int, number: int) -> list[Sample]:
        location = self.sources[file].location(number)
        try:
            return [to_sample(row, location) for row in check_row(parse_line(line))]
        except RowFault as fault:
            raise DataError(f"{location}: {fault}") from None


def _scan(
    sources: Sequence[Source], copies: Sequence[Path], workers: int | None, chunk_bytes: int
) -> pa.Table:
    """Read all files and return the canonical table; every bad row counts before it is refused."""
    tables: list[pa.Table] = []
    problems: list[str] = []
    kinds = Counter[str]()
    lines_before = dict.fromkeys(range(len(sources)), 0)
    # Closed, so that after an error or Ctrl-C no process goes on.
    with closing(scan_files(copies, workers=workers, chunk_bytes=chunk_bytes)) as chunks:
        for chunk in chunks:
            first = lines_before[chunk.file]
            lines_before[chunk.file] += chunk.num_lines
            kinds += chunk.kinds
            problems += [
                f"{sources[chunk.file].location(first + fault.line)}: {fault.message}"
                for fault in chunk.faults[: MAX_LISTED - len(problems)]
            ]
            tables.append(_with_places(chunk, first))
    if problems:
        raise DataError(problems, total=kinds.total(), kinds=kinds)
    if not sum(table.num_rows for table in tables):
        raise _no_rows(sources)
    table, used_again = to_canonical(_concat(tables))
    if used_again:
        raise _repeated_ids(table, used_again, sources)
    return table


def _concat(tables: list[pa.Table]) -> pa.Table:
    """Put tables together and let go of them: the memory of a large dataset is not held twice."""
    table = pa.concat_tables(tables)
    tables.clear()
    return table


def _with_places(chunk: ScannedChunk, lines_before: int) -> pa.Table:
    """Count lines from the start of the file and name the file."""
    samples = chunk.samples
    lines = pc.add(samples["line"], pa.scalar(lines_before, pa.int32()))
    samples = samples.set_column(samples.schema.get_field_index("line"), "line", lines)
    files = pa.array(np.full(samples.num_rows, chunk.file, np.int32))
    return samples.append_column("file", files)


def _no_rows(sources: Sequence[Source]) -> DataError:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return DataError(f"{sources[0].name}{more}: holds no rows; the dataset needs at least one")


def _repeated_ids(
    table: pa.Table, used_again: Sequence[tuple[int, int]], sources: Sequence[Source]
) -> DataError:
    def place(row: int) -> str:
        file, line = (int(table[name][row].as_py()) for name in ("file", "line"))
        return sources[file].location(line)

    remedy = "every row needs its own, or none"
    problems = [
        f"{place(later)}: 'task_id' {shorten(table['task_id'][later].as_py())} is taken by "
        f"{place(first)}; {remedy}"
        for first, later in used_again[:MAX_LISTED]
    ]
    kinds = {f"'task_id': {remedy}": len(used_again)}
    return DataError(problems, total=len(used_again), kinds=kinds)


def _cache_key(sources: Sequence[Source]) -> str:
    content = "\0".join([str(_FORMAT_VERSION), *(source.key for source in sources)])
    return blake2b(content.encode()).hexdigest()[:16]


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def _open_table(path: Path) -> pa.Table | None:
    if not path.exists():
        return None
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        logger.warning("%s is damaged (%s) and is made anew", path, error)
        return None
