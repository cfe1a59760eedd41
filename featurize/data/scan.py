"""One pass over the lines of a dataset, in several processes: checks rows, records their places."""

import io
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.data.records import CheckedRow, RowReader
from featurize.data.sources import Source
from featurize.data.table import SCHEMA
from featurize.errors import MAX_LISTED, DataError, RowFault, kind_of

CHUNK_BYTES = 8 << 20  # limits the Python objects alive at a time
_MAX_LINE_BYTES = 1 << 30  # no sample is longer; the column `length` has 32 bits
_WORKER_BYTES = 256 << 20  # starting a process pays off from about here
_SECONDS_BETWEEN_REPORTS = 10
logger = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Whole lines of a file, in a range of bytes."""

    path: Path
    file: int
    start: int
    end: int


class ScannedChunk(NamedTuple):
    """The samples and faults of a chunk; lines count from 1 at the start of the chunk."""

    num_lines: int
    samples: pa.Table  # table.SCHEMA
    faults: list[tuple[int, str]]  # line and message of the first MAX_LISTED
    kinds: Counter[str]  # number of faults of each kind


def scan_files(
    sources: Sequence[Source],
    copies: Sequence[Path],
    reader: RowReader,
    *,
    workers: int | None = None,
) -> list[pa.Table]:
    """Scan all files in order; `workers` None chooses the number of processes by size.

    Raises:
        DataError: bad rows, after all of them were counted; it names their files and lines.
    """
    tables, problems, kinds = list[pa.Table](), list[str](), Counter[str]()
    lines_before = Counter[int]()
    chunks = [chunk for file, path in enumerate(copies) for chunk in _cut(path, file)]
    if workers is None:
        num_bytes = sum(path.stat().st_size for path in copies)
        workers = min(len(os.sched_getaffinity(0)), num_bytes // _WORKER_BYTES)
    # Closed, so that the other processes end after an error or Ctrl-C.
    with closing(_scan_chunks(chunks, reader, workers)) as scanned:
        for chunk, found in zip(chunks, _report_progress(scanned, len(chunks)), strict=True):
            first, source = lines_before[chunk.file], sources[chunk.file]
            lines_before[chunk.file] += found.num_lines
            kinds += found.kinds
            problems += [f"{source.location(first + n)}: {text}" for n, text in found.faults]
            tables.append(_count_lines_from(first, found.samples))
    if problems:
        raise DataError(problems, total=kinds.total(), kinds=kinds)
    return tables or [SCHEMA.empty_table()]


def _cut(path: Path, file: int) -> Iterator[Chunk]:
    """Cut a file into chunks that end with the line in which CHUNK_BYTES end."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as content:
        while start < size:
            place = content.seek(min(start + CHUNK_BYTES, size) - 1)
            rest = len(content.readline(_MAX_LINE_BYTES + 1))
            if rest > _MAX_LINE_BYTES:
                raise DataError(
                    f"{path}: the line at byte {place:,} is longer than {_MAX_LINE_BYTES:,} bytes; "
                    "every line must be one JSON object, a sample (a file that is one JSON list "
                    "has to be converted)"
                )
            yield Chunk(path, file, start, place + rest)
            start = place + rest


def _scan_chunks(
    chunks: Sequence[Chunk], reader: RowReader, workers: int
) -> Generator[ScannedChunk, None, None]:
    scan = partial(scan_chunk, reader=reader)
    if workers <= 1:
        yield from map(scan, chunks)
        return
    # NOTE: spawn, because the caller may have threads (torch, Arrow), which a fork would break.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _ignore_interrupts) as pool:
        try:
            # NOTE: not pool.map: it cancels futures while the pool, if broken, sets them.
            futures = [pool.submit(scan, chunk) for chunk in chunks]
            yield from (future.result() for future in futures)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process that reads the dataset was killed (memory may have run out); run the "
                "same command again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _report_progress(scanned: Iterable[ScannedChunk], num_chunks: int) -> Iterator[ScannedChunk]:
    last = time.monotonic()
    for number, chunk in enumerate(scanned, start=1):
        yield chunk
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            logger.info("checking the dataset: %d%% of its rows", 100 * number // num_chunks)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def scan_chunk(chunk: Chunk, reader: RowReader) -> ScannedChunk:
    """Check every row of a chunk; record its keys, lengths and place."""
    content = _read(chunk)
    lengths = np.fromiter(map(len, io.BytesIO(content)), np.int64)
    rows = reader.read_plain(content) if _has_an_object_a_line(content, lengths) else None
    faults, kinds = list[tuple[int, str]](), Counter[str]()
    counts = np.ones(len(lengths), np.int64)  # samples of each line
    if rows is None or len(rows) != len(lengths):
        found = _read_lines(content, reader, faults, kinds)
        counts = np.array([len(rows) for rows in found])
        rows = list(chain.from_iterable(found))
    samples = _to_table(rows, _places(chunk, lengths, counts))
    return ScannedChunk(len(lengths), samples, faults, kinds)


def _read(chunk: Chunk) -> bytes:
    with chunk.path.open("rb") as file:
        file.seek(chunk.start)
        content = file.read(chunk.end - chunk.start)
    if len(content) < chunk.end - chunk.start:
        raise DataError(f"{chunk.path}: became shorter while it was read; start again")
    return content


def _has_an_object_a_line(content: bytes, lengths: np.ndarray) -> bool:
    """Whether n JSON objects in n lines of these lengths would be one a line.

    They are if each line starts with a brace, and each but the last ends with one: JSON allows
    no line feed between two braces inside of an object.
    """
    codes, starts = np.frombuffer(content, np.uint8), np.cumsum(lengths) - lengths
    return bool(np.all(codes[starts] == ord("{")) and np.all(codes[starts[1:] - 2] == ord("}")))


def _read_lines(
    content: bytes, reader: RowReader, faults: list[tuple[int, str]], kinds: Counter[str]
) -> list[list[CheckedRow]]:
    """Read line by line: none, one or two samples each; adds to `faults` and `kinds`."""
    found: list[list[CheckedRow]] = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            found.append([] if line.isspace() else reader.read(line))
        except RowFault as fault:
            found.append([])
            kinds[kind_of(str(fault))] += 1
            faults.append((number, str(fault)))
            del faults[MAX_LISTED:]
    return found


def _places(chunk: Chunk, lengths: np.ndarray, counts: np.ndarray) -> dict[str, Sequence[object]]:
    """Return the columns of where the samples are; lines have these bytes and samples."""
    lines = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(1, len(lines) + 1) - (np.cumsum(counts) - counts)[lines]
    return {
        "file": np.full(len(lines), chunk.file),
        "line": lines + 1,
        "offset": (np.cumsum(lengths) - lengths + chunk.start)[lines],
        "length": lengths[lines],
        "part": np.where(counts[lines] > 1, nth, 0),
    }


def _to_table(rows: Sequence[CheckedRow], places: dict[str, Sequence[object]]) -> pa.Table:
    prompts, facts = [row.prompt for row in rows], [row.facts for row in rows]
    columns = places | {
        "task_id": [row.task_id for row in rows],
        "problem_id": [row.problem_id for row in rows],
        "is_correct": [row.is_correct for row in rows],
        "language": [fact.language for fact in facts],
        "difficulty": [fact.difficulty for fact in facts],
        "source": [fact.source for fact in facts],
        "prompt_key": [prompt.key for prompt in prompts],
        "output_key": [row.output_key for row in rows],
        "prompt_chars": [prompt.num_chars for prompt in prompts],
        "output_chars": [len(row.output) for row in rows],
        "author": [fact.author for fact in facts],
        "has_default_id": [row.has_default_id for row in rows],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _count_lines_from(lines_before: int, samples: pa.Table) -> pa.Table:
    """Count lines from the start of the file, not of the chunk."""
    lines = pc.add(samples["line"], pa.scalar(lines_before, pa.int32()))
    return samples.set_column(SCHEMA.get_field_index("line"), "line", lines)
