"""Reads JSONL files once, in chunks and on several cores, and notes where each sample lies."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from featurize.data.errors import MAX_LISTED, RowFault
from featurize.data.records import Sample, output_key, parse_line, prompt_key, to_samples

CHUNK_BYTES = 16 << 20  # bounds the Python objects alive at a time
_WORKER_BYTES = 128 << 20  # a further process pays from about here on

# One row a sample. `part`: 0 a plain row, 1 and 2 the chosen and rejected side of a preference.
SCAN_SCHEMA = pa.schema(
    {
        "task_id": pa.string(),
        "problem_id": pa.dictionary(pa.int32(), pa.string()),
        "is_correct": pa.bool_(),
        "language": pa.dictionary(pa.int32(), pa.string()),
        "difficulty": pa.dictionary(pa.int32(), pa.string()),
        "source": pa.dictionary(pa.int32(), pa.string()),
        "file": pa.int32(),
        "line": pa.int32(),
        "offset": pa.int64(),
        "length": pa.int32(),
        "part": pa.int8(),
        "prompt_key": pa.binary(16),
        "output_key": pa.binary(16),
        "prompt_chars": pa.int32(),
        "output_chars": pa.int32(),
        "has_default_id": pa.bool_(),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The lines of a file that start in a range of bytes."""

    path: Path
    file: int
    start: int
    end: int


class Fault(NamedTuple):
    """What is wrong with one line."""

    line: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedChunk:
    """What one chunk holds; lines count from 1 at the start of the chunk."""

    file: int
    samples: pa.Table  # SCAN_SCHEMA
    num_lines: int
    faults: list[Fault]  # the first few
    num_faults: int


def scan_files(
    paths: Sequence[Path], *, workers: int | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[ScannedChunk]:
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
        yield from map(scan_chunk, chunks)
        return
    # NOTE: spawn, because the caller may hold threads (torch, Arrow), which a fork would break.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(scan_chunk, chunks)


def scan_chunk(chunk: Chunk) -> ScannedChunk:
    """Check every row of a chunk and note its keys, its lengths and its place."""
    rows: list[tuple[object, ...]] = []
    faults: list[Fault] = []
    number = num_faults = 0
    for number, offset, line in _chunk_lines(chunk):
        if line.isspace():
            continue
        try:
            row = parse_line(line)
            samples = to_samples(row, "")
        except RowFault as fault:
            num_faults += 1
            if len(faults) < MAX_LISTED:
                faults.append(Fault(number, str(fault)))
            continue
        has_default_id = isinstance(row, dict) and row.get("task_id") is None
        is_pair = len(samples) > 1
        rows += (
            _to_row(sample, (chunk.file, number, offset, len(line), part), has_default_id)
            for part, sample in enumerate(samples, start=1 if is_pair else 0)
        )
    columns = list(zip(*rows, strict=True)) or [()] * len(SCAN_SCHEMA)
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, SCAN_SCHEMA, strict=True)
    ]
    return ScannedChunk(
        file=chunk.file,
        samples=pa.Table.from_arrays(arrays, schema=SCAN_SCHEMA),
        num_lines=number,
        faults=faults,
        num_faults=num_faults,
    )


def _chunk_lines(chunk: Chunk) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset and bytes of each line that starts in the chunk."""
    with chunk.path.open("rb") as file:
        if chunk.start:
            file.seek(chunk.start - 1)
            file.readline()  # the rest of a line that started before; only "\n" where none did
        offset = file.tell()
        for number, line in enumerate(file, start=1):
            if offset >= chunk.end:
                return
            yield number, offset, line
            offset += len(line)


def _to_row(
    sample: Sample, place: tuple[int, int, int, int, int], has_default_id: bool
) -> tuple[object, ...]:
    """Return the values of one sample in the order of SCAN_SCHEMA."""
    return (
        sample.task_id,
        sample.problem_id,
        sample.is_correct,
        sample.language,
        sample.difficulty,
        sample.source,
        *place,
        prompt_key(sample.instruction, sample.input),
        output_key(sample.output),
        len(sample.instruction) + len(sample.input),
        len(sample.output),
        has_default_id,
    )


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # what this process may use, not what exists
    return len(affinity(0)) if affinity else os.cpu_count() or 1
