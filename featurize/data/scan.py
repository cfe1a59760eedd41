"""Reads JSONL files once, in chunks and on several cores, and notes where each sample lies."""

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import orjson
import pyarrow as pa

from featurize.data.errors import DataError
from featurize.data.lines import LineParser
from featurize.data.notes import Fault, Notes
from featurize.data.plain import Columns, plain_columns

CHUNK_BYTES = 16 << 20  # bounds the Python objects alive at a time
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
        yield from _report(map(scan_chunk, chunks), chunks)
        _line_parser.cache_clear()
        return
    # NOTE: spawn, because the caller may hold threads (torch, Arrow), which a fork would break.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts) as pool:
        yield from _report(pool.map(scan_chunk, chunks), chunks)


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
    for block, num_bytes, offset in _read_blocks(chunk):
        columns, lengths = _try_plain(block, num_bytes)
        if columns is None:
            notes.add_any(bytes(block[:num_bytes]), offset)
        else:
            notes.add_plain(columns, lengths, offset)
    return ScannedChunk(
        file=chunk.file,
        samples=notes.to_table(),
        num_lines=notes.num_lines,
        faults=notes.faults,
        kinds=notes.kinds,
    )


def _try_plain(block: bytearray, num_bytes: int) -> tuple[Columns | None, list[int]]:
    """Check plain rows many at a time; None where there are others, or bad ones, among them."""
    if b'"instruction"' not in block[: block.find(b"\n") + 1]:
        return None, []  # as in a file of preferences: the lines are not worth parsing for this
    try:
        rows, lengths = _line_parser().parse_all(block, num_bytes)
    except orjson.JSONDecodeError:
        return None, []
    return plain_columns(rows), lengths


@cache
def _line_parser() -> LineParser:
    """One a process: what it knows of a problem helps with all chunks."""
    return LineParser()


def _read_blocks(chunk: Chunk) -> Iterator[tuple[bytearray, int, int]]:
    """Yield whole lines, a block at a time: the block, its length and its offset in the file.

    The block is overwritten by the next one.
    """
    with chunk.path.open("rb") as file:
        offset, end = (_line_start(chunk.path, at) for at in (chunk.start, chunk.end))
        block = bytearray(_BLOCK_BYTES)
        while offset < end:
            file.seek(offset)
            num_bytes = min(file.readinto(block), end - offset)
            if offset + num_bytes < end:
                if num_bytes < len(block):
                    raise DataError(f"{chunk.path}: became shorter while it was read; start again")
                num_bytes = block.rfind(b"\n") + 1
            if num_bytes:
                yield block, num_bytes, offset
            elif len(block) > _LINE_BYTES:
                raise _too_long(chunk.path, offset)
            else:
                block = bytearray(2 * len(block))  # a long line
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
