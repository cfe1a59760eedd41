"""The files of a dataset: finding them, and reading any format as JSON lines."""

import glob
import gzip
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from featurize.data.conventions import REFUSED_FIELDS
from featurize.data.parquet import read_parquet_lines
from featurize.data.verdicts import may_be_label
from featurize.errors import DataError
from featurize.io.files import atomic_path
from featurize.io.remote import is_remote, user_cache_dir

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_LOCAL = ("file://", "local://")
_BLOCK_BYTES = 1 << 20
# Incremented when a Parquet file becomes other lines than before.
_COPY_VERSION = 4
# If a Parquet file has one of the answers, only these columns are read.
_FIELDS = {
    "instruction", "input", "output", "is_correct", "problem_id", "task_id", "metadata",
    "prompt", "chosen", "rejected", "completion", "label",
    "conversations", "messages", "system", "history", *REFUSED_FIELDS,
}  # fmt: skip
_ANSWERS = ("output", "chosen", "completion", "conversations", "messages")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a dataset, as it was when it was found."""

    name: str  # as the user wrote it, for messages
    path: str  # absolute
    suffix: str  # one of SUFFIXES
    size: int
    mtime_ns: int
    version: str | None = None  # of the remote object, if `path` is a copy of one

    @property
    def key(self) -> str:
        """Name for files derived from this one; it changes with the file."""
        content = "\0".join(map(str, [self.path, *self.state]))
        return blake2b(content.encode()).hexdigest()[:16]

    @property
    def state(self) -> list[int | str]:
        """Size and modification time, or the remote version: equal means unchanged."""
        return [self.size, self.version or self.mtime_ns]

    def location(self, line: int) -> str:
        """Return "file:line" for messages; lines count from 1."""
        return f"{self.name}:{'row ' if self.suffix == '.parquet' else ''}{line}"

    def has_changed(self) -> bool:
        """Whether the file was changed or removed since it was found."""
        try:
            status = Path(self.path).stat()
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns)


def find_sources(paths: str | Sequence[str], cache_dir: Path | None = None) -> list[Source]:
    """Find the files that paths, globs and URIs name, each file once and globs in sorted order.

    Remote files are copied into `cache_dir` first; None means the user's cache folder.
    """
    sources: dict[str, Source] = {}
    for pattern in [paths] if isinstance(paths, str) else paths:
        for source in _find(os.fspath(pattern), cache_dir or user_cache_dir()):
            sources.setdefault(source.path, source)
    if not sources:
        raise DataError("no dataset file is given; name at least one file or glob")
    return list(sources.values())


def read_lines(source: Source, columns: Collection[str] | None = None) -> Iterator[bytes]:
    """Yield a source as lines of JSON without their ends; a Parquet row becomes a line.

    Of a Parquet file, only the columns of a sample and those in `columns` are read.
    """
    if source.suffix == ".parquet":
        yield from _read_parquet(source, columns)
        return
    rest = b""
    for block in _read_blocks(source):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def seekable_copy(source: Source, cache_dir: Path) -> Path:
    """Return an uncompressed JSONL file with the lines of the source, written if necessary.

    Line n of the copy is line (or Parquet row) n of the source. A plain file is its own copy.
    """
    if source.suffix == ".jsonl":
        return Path(source.path)
    copy = cache_dir / f"rows-{source.key}-{_COPY_VERSION}.jsonl"
    if not copy.exists():
        with atomic_path(copy) as temporary, temporary.open("wb") as file:
            if source.suffix == ".parquet":
                file.writelines(line + b"\n" for line in read_lines(source))
            else:
                file.writelines(_read_blocks(source))
    return copy


def _find(pattern: str, cache_dir: Path) -> Iterator[Source]:
    if not is_remote(pattern) or pattern.startswith(_LOCAL):
        yield from map(_to_source, _expand(pattern))
        return
    from featurize.io.downloads import find_remote_files

    found = find_remote_files(pattern)
    for file in found:
        _suffix_of(file.name)  # before anything is fetched
    for file in found:
        copy = _to_source(str(file.fetch(cache_dir)))
        yield replace(copy, name=file.name, version=file.version)


def _expand(pattern: str) -> list[str]:
    for protocol in _LOCAL:
        pattern = pattern.removeprefix(protocol)
    if not pattern:
        raise DataError("'' names no dataset file; give a path, a glob or a URI")
    expanded = Path(pattern).expanduser()
    if expanded.is_dir():
        raise DataError(f"{pattern!r} is a folder; name a file or a glob such as '{pattern}/*'")
    if expanded.exists():
        return [str(expanded)]
    # NOTE: Path.glob refuses absolute patterns.
    names = [n for n in glob.glob(str(expanded), recursive=True) if Path(n).is_file()]  # noqa: PTH207
    if not names:
        raise DataError(f"{pattern!r} matches no file; check the path (now in {str(Path.cwd())!r})")
    return sorted(names)


def _to_source(name: str) -> Source:
    suffix = _suffix_of(name)
    status = Path(name).stat()
    return Source(
        name=name,
        path=str(Path(name).absolute()),
        suffix=suffix,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _suffix_of(name: str) -> str:
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{name!r} has an unknown ending; known are {', '.join(SUFFIXES)}")
    return suffix


def _read_blocks(source: Source) -> Iterator[bytes]:
    """Yield the uncompressed content in blocks of any length."""
    try:
        if source.suffix == ".jsonl.zst":
            yield from _zstd_blocks(source.path)
            return
        opened = gzip.open if source.suffix == ".jsonl.gz" else open
        with opened(source.path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        message = f"{source.name}: cannot be decompressed ({error}); fetch or write it again"
        raise DataError(message) from error


def _zstd_blocks(path: str) -> Iterator[bytes]:
    # NOTE: zstandard.open reads a truncated file without an error; this does not.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # as `zstd --long=31` needs
    frame = None
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            while block:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(block)
                block = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends before its last frame does")


def _read_parquet(source: Source, also: Collection[str] | None) -> Iterator[bytes]:
    try:
        names = pq.read_schema(source.path).names
    except (pa.ArrowException, OSError):
        names = []  # reading the rows raises with a better message
    is_known = also is not None or any(answer in names for answer in _ANSWERS)
    wanted = _FIELDS.union(also or ())
    columns = [n for n in names if n in wanted or may_be_label(n)] if is_known else None
    yield from read_parquet_lines(source.path, source.name, columns)
