"""Reads JSONL files once, in chunks and on several cores, and notes where each sample lies."""

import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from featurize.data.lines import PLAIN_ERRORS, LineParser
from featurize.data.notes import SCAN_SCHEMA, Fault, Notes
from featurize.data.plain import PlainColumns, plain_columns
from featurize.errors import DataError
from featurize.io.files import naming_errors

CHUNK_BYTES = 16 << 20  # bounds the Python objects alive at a time
_BUFFER_BYTES = 256 << 10  # of a file, read at once
_BLOCK_BYTES = 512 << 10  # what fits the caches of a core
_LINE_BYTES = 1 << 30  # more is no sample; lengths are kept in 32 bits
_WORKER_BYTES = 128 << 20  # a further process pays from about here on
_SECONDS_BETWEEN_REPORTS = 10
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The lines of a file that start in a range of bytes."""

    path: Path
    file: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedChunk:
    """What one chunk holds; lines count from 1 at the start of the chunk."""

    file: int
    samples: pa.Table  # SCAN_SCHEMA
    num_lines: int
    faults: list[Fault]  # the first few
    kinds: Counter[str]  # how many faults there are of each kind


def scan_files(
    paths: Sequence[Path], *, workers: int | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Generator[ScannedChunk, None, None]:
    """Scan the chunks of all files, in order; `workers` None takes what the size is worth."""
    sizes = [path.stat().st_size for path in paths]
    chunks = [
        Chunk(path=path, file=file, start=start, end=min(start + chunk_bytes, size))
        for file, (path, size) in enumerate(zip(paths, sizes, strict=True))
        for start in range(0, size, chunk_bytes)
    ]
    if workers is None:
        workers = min(_num_cores(), 1 + sum(sizes) // _WORKER_BYTES)
    workers = min(workers, len(chunks))
    if workers <= 1:
        try:
            yield from _report(map(scan_chunk, chunks), chunks)
        finally:
            _line_parser.cache_clear()
        return
    # NOTE: spawn, because the caller may hold threads (torch, Arrow), which a fork would break.
    context = get_context("spawn")
    others = workers - 1  # this process is one of them
    with (
        TemporaryDirectory(prefix="critic-") as folder,
        ProcessPoolExecutor(others, mp_context=context, initializer=_leave_interrupts) as pool,
    ):
        try:
            yield from _report(_scan_together(chunks, pool, others, Path(folder)), chunks)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process that reads the dataset was killed (memory may have run out); run the "
                "same command again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
            _line_parser.cache_clear()


def _scan_together(
    chunks: Iterable[Chunk], pool: ProcessPoolExecutor, others: int, folder: Path
) -> Iterator[ScannedChunk]:
    """Scan here whatever the other processes have no time for; in order all the same."""
    scanned = deque[tuple[Future[ScannedChunk], Path | None]]()
    for number, chunk in enumerate(chunks):
        if sum(not future.done() for future, _ in scanned) < 2 * others:
            path = folder / f"{number}.arrow"
            scanned.append((pool.submit(_scan_apart, chunk, path), path))
        else:
            scanned.append((Future(), None))
            scanned[-1][0].set_result(scan_chunk(chunk))
        while scanned and scanned[0][0].done():
            yield _take_over(*scanned.popleft())
    while scanned:
        yield _take_over(*scanned.popleft())


def _scan_apart(chunk: Chunk, path: Path) -> ScannedChunk:
    """Scan a chunk for another process, which finds its samples in a file.

    Through a pipe they would go in pieces, and for each this process would have to wait until the
    other one, busy with a chunk of its own, comes to read it.
    """
    scanned = scan_chunk(chunk)
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, SCAN_SCHEMA) as writer:
        writer.write_table(scanned.samples)
    with naming_errors(path):
        path.write_bytes(content.getvalue())
    return replace(scanned, samples=SCAN_SCHEMA.empty_table())


def _take_over(future: Future[ScannedChunk], path: Path | None) -> ScannedChunk:
    scanned = future.result()
    if path is None:
        return scanned
    samples = pa.ipc.open_stream(path.read_bytes()).read_all()
    path.unlink()
    return replace(scanned, samples=samples)


def _report(scanned: Iterable[ScannedChunk], chunks: Sequence[Chunk]) -> Iterator[ScannedChunk]:
    """Log now and then how far it is."""
    last = time.monotonic()
    for number, chunk in enumerate(scanned, start=1):
        yield chunk
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            logger.info("checking the dataset: %d%% of its rows", 100 * number // len(chunks))


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the parent tells of it and ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def scan_chunk(chunk: Chunk) -> ScannedChunk:
    """Check every row of a chunk and note its keys, its lengths and its place."""
    notes = Notes()
    for lines, lengths, offset in _read_blocks(chunk):
        columns = _try_plain(lines)
        if columns is None:
            notes.add_any(lines, offset)
        else:
            notes.add_plain(columns, lengths, offset)
    return ScannedChunk(
        file=chunk.file,
        samples=notes.to_table(),
        num_lines=notes.num_lines,
        faults=notes.faults,
        kinds=notes.kinds,
    )


def _try_plain(lines: Sequence[bytes]) -> PlainColumns | None:
    """Check plain rows many at a time; None where there are others, or bad ones, among them."""
    if b'"instruction"' not in lines[0]:
        return None  # as in a file of preferences: the lines are not worth parsing for this
    try:
        return plain_columns(_line_parser().parse_all(lines))
    except PLAIN_ERRORS:
        return None


@cache
def _line_parser() -> LineParser:
    """One a process: what it knows of a problem helps with all chunks."""
    return LineParser()


def _read_blocks(chunk: Chunk) -> Iterator[tuple[list[bytes], np.ndarray, int]]:
    """Yield whole lines, about a block at a time, their lengths and the offset of the first one."""
    with chunk.path.open("rb", buffering=_BUFFER_BYTES) as file:
        offset, end = (_line_start(chunk.path, at) for at in (chunk.start, chunk.end))
        file.seek(offset)
        while offset < end:
            lines = file.readlines(min(_BLOCK_BYTES, end - offset))
            lengths = np.fromiter(map(len, lines), np.int64, len(lines))
            num_bytes = int(lengths.sum())
            while offset + num_bytes > end:  # what begins at the end is of the next chunk
                num_bytes -= len(lines.pop())
            if not lines or (offset + num_bytes < end and not lines[-1].endswith(b"\n")):
                raise DataError(f"{chunk.path}: became shorter while it was read; start again")
            if len(lines[-1]) > _LINE_BYTES:
                raise _too_long(chunk.path, offset + num_bytes - len(lines[-1]))
            yield lines, lengths[: len(lines)], offset
            offset += num_bytes


def _line_start(path: Path, offset: int) -> int:
    """Return where the first line begins that does not begin before `offset`."""
    if offset == 0:
        return 0
    with path.open("rb") as file:
        file.seek(offset - 1)
        # The rest of a line that began before; only "\n" where none did.
        if len(file.readline(_LINE_BYTES)) == _LINE_BYTES:
            raise _too_long(path, offset)
        return file.tell()


def _too_long(path: Path, offset: int) -> DataError:
    return DataError(
        f"{path}: the line at byte {offset:,} is longer than {_LINE_BYTES:,} bytes; every line must"
        " be one JSON object, a sample (a file that is one JSON list has to be converted)"
    )


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # what this process may use, not what exists
    return len(affinity(0)) if affinity else os.cpu_count() or 1
