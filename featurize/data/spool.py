"""Keeps a plain copy of compressed and Parquet files, so that single rows can be read from them."""

from pathlib import Path

from featurize.data.sources import Source, read_blocks, read_lines
from featurize.io.files import atomic_path


def seekable_copy(source: Source, cache_dir: Path) -> Path:
    """Return a JSONL file with the lines of the source; the file itself where that will do.

    Line n of the copy is line (or Parquet row) n of the source. A copy that is already there is
    used again; it is keyed by path, size and modification time.
    """
    if source.is_plain:
        return Path(source.path)
    copy = cache_dir / f"rows-{source.key}.jsonl"
    if not copy.exists():
        with atomic_path(copy) as temporary, temporary.open("wb") as file:
            if source.suffix == ".parquet":
                file.writelines(line + b"\n" for line in read_lines(source))
            else:
                file.writelines(read_blocks(source))
    return copy
