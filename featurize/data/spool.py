"""Keeps a plain copy of compressed and Parquet files, so that single rows can be read from them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO

from featurize.data.sources import Source, read_blocks, read_lines


def seekable_copy(source: Source, cache_dir: Path) -> Path:
    """Return a JSONL file with the lines of the source; the file itself where that will do.

    Line n of the copy is line (or Parquet row) n of the source. A copy that is already there is
    used again; it is keyed by path, size and modification time.
    """
    if source.is_plain:
        return Path(source.path)
    copy = cache_dir / f"rows-{source.key}.jsonl"
    if not copy.exists():
        with replacing(copy) as file:
            if source.suffix == ".parquet":
                file.writelines(line + b"\n" for line in read_lines(source))
            else:
                file.writelines(read_blocks(source))
    return copy


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name and put it in place only when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # NOTE: the name is random, so that ranks that write the same file do not meet; tempfile would
    # make it unreadable to other users of a shared cache.
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
