"""One pass over the lines of a dataset, in several processes: checks rows, records their places."""

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from xxhash import xxh3_64_intdigest

from featurize.data.records import CheckedRow, RowReader
from featurize.errors import MAX_LISTED, DataError, RowFault, kind_of

CHUNK_BYTES = 8 << 20  # limits the Python objects alive at a time
_BUFFER_BYTES = 256 << 10
_MAX_LINE_BYTES = 1 << 30  # no sample is longer; the column `length` has 32 bits
_WORKER_BYTES = 256 << 20  # starting a process pays off from about here
_SECONDS_BETWEEN_REPORTS = 10
logger = logging.getLogger(__name__)

_CATEGORY = pa.dictionary(pa.int32(), pa.string())
# One row per sample. `part`: 0 for a plain row, 1 and 2 for chosen and rejected of a preference.
_SCAN_SCHEMA = pa.schema(
    {
        "task_id": pa.string(),
        "problem_id": _CATEGORY,
        "is_correct": pa.bool_(),
        "language": _CATEGORY,
        "difficulty": _CATEGORY,
        "source": _CATEGORY,
        "author": _CATEGORY,
        "prompt_key": pa.binary(16),
        "output_key": pa.binary(16),
        "prompt_chars": pa.int32(),
        "output_chars": pa.int32(),
        "has_default_id": pa.bool_(),
        "id_hash": pa.uint64(),
        "line": pa.int32(),
        "offset": pa.int64(),
        "length": pa.int32(),
        "part": pa.int8(),
    }
)
_of_sample = attrgetter(*_SCAN_SCHEMA.names[:7])


class Chunk(NamedTuple):
    """The lines of a file that start in a range of bytes."""

    path: Path
    file: int
    start: int
    end: int
    keeps_turns: bool = False  # read prompts of several messages as conversations
    needs_labels: bool = True  # else a label that cannot be read is unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedChunk:
    """The samples and faults of a chunk; lines count from 1 at the start of the chunk."""

    file: int
    num_lines: int
    samples: pa.Table  # _SCAN_SCHEMA
    faults: list[tuple[int, str]]  # line and message of the first MAX_LISTED
    kinds: Counter[str]  # number of faults of each kind


def scan_files(
    paths: Sequence[Path],
    *,
    workers: int | None = None,
    keeps_turns: bool = False,
    needs_labels: bool = True,
) -> Generator[ScannedChunk, None, None]:
    """Scan the chunks of all files, in order; `workers` None chooses by size.

    Without `needs_labels`, labels that cannot be read are unknown.
    """
    sizes = [path.stat().st_size for path in paths]
    chunks = [
        Chunk(path, file, start, min(start + CHUNK_BYTES, size), keeps_turns, needs_labels)
        for file, (path, size) in enumerate(zip(paths, sizes, strict=True))
        for start in range(0, size, CHUNK_BYTES)
    ]
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), sum(sizes) // _WORKER_BYTES)
    scan = map(scan_chunk, chunks) if workers <= 1 else _scan_in_processes(chunks, workers)
    try:
        yield from _report_progress(scan, len(chunks))
    finally:
        _row_reader.cache_clear()


def _scan_in_processes(chunks: Sequence[Chunk], workers: int) -> Iterator[ScannedChunk]:
    # NOTE: spawn, because the caller may have threads (torch, Arrow), which a fork would break.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _ignore_interrupts) as pool:
        try:
            # NOTE: not pool.map: it cancels futures while the pool, if broken, sets them.
            futures = [pool.submit(scan_chunk, chunk) for chunk in chunks]
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


def scan_chunk(chunk: Chunk) -> ScannedChunk:
    """Check every row of a chunk; record its keys, lengths and place."""
    reader = _row_reader(chunk.keeps_turns, chunk.needs_labels)
    samples: list[tuple[Any, ...]] = []  # in the order of _SCAN_SCHEMA
    faults: list[tuple[int, str]] = []
    kinds = Counter[str]()
    number = 0
    for number, (offset, line) in enumerate(_read_lines(chunk), start=1):
        try:
            rows = [] if line.isspace() else reader.read(line)
        except RowFault as fault:
            kinds[kind_of(str(fault))] += 1
            faults.append((number, str(fault)))
            del faults[MAX_LISTED:]
            continue
        for part, row in enumerate(rows, start=len(rows) > 1):
            samples.append(_columns_of(row, number, offset, len(line), part))
    return ScannedChunk(
        file=chunk.file, num_lines=number, samples=_to_table(samples), faults=faults, kinds=kinds
    )


def _columns_of(row: CheckedRow, *place: int) -> tuple[Any, ...]:
    """Return a row of _SCAN_SCHEMA; `place` has the last four columns."""
    sample = row.sample
    return (
        *_of_sample(sample),
        row.prompt_key,
        row.output_key,
        len(sample.instruction) + len(sample.input),
        len(sample.output),
        row.has_default_id,
        xxh3_64_intdigest(sample.task_id.encode()),
        *place,
    )


def _to_table(samples: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*samples, strict=True) if samples else [()] * len(_SCAN_SCHEMA)
    arrays = [pa.array(c, kind) for c, kind in zip(columns, _SCAN_SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCAN_SCHEMA)


@cache
def _row_reader(keeps_turns: bool, needs_labels: bool) -> RowReader:
    """Return this process's reader: prompts remembered in one chunk help in the next."""
    return RowReader(keeps_turns=keeps_turns, needs_labels=needs_labels)


def _read_lines(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the bytes of every line that starts in the chunk."""
    with chunk.path.open("rb", buffering=_BUFFER_BYTES) as file:
        # Start with the end of the line before: only a newline if a line starts with the chunk.
        offset = max(chunk.start - 1, 0)
        file.seek(offset)
        while offset < chunk.end:
            line = file.readline(_MAX_LINE_BYTES + 1)
            if not line:
                raise DataError(f"{chunk.path}: became shorter while it was read; start again")
            if len(line) > _MAX_LINE_BYTES:
                raise DataError(
                    f"{chunk.path}: the line at byte {offset:,} is longer than "
                    f"{_MAX_LINE_BYTES:,} bytes; every line must be one JSON object, a sample (a "
                    "file that is one JSON list has to be converted)"
                )
            if offset >= chunk.start:
                yield offset, line
            offset += len(line)
