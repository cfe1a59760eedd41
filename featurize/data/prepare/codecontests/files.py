"""Finds the Parquet files of CodeContests, and the split of each by its name."""

import glob
import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from featurize.data.sources import find_sources
from featurize.errors import CriticError
from featurize.settings import to_split

log = logging.getLogger(__name__)

AS_PUBLISHED = {"train": ("train-*",), "valid": ("valid-*", "validation-*"), "test": ("test-*",)}
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\b")


def find_splits(
    source: str, patterns: Mapping[str, Sequence[str]], cache_dir: Path | None = None
) -> dict[str, list[Path]]:
    """Find the files of each split that has any, in the order of their names.

    `source` is a folder, a glob, a file or a URI, whose files are copied into `cache_dir`;
    `patterns` match names of files.
    """
    if Path(source).expanduser().is_dir():
        source = f"{glob.escape(source)}/**/*.parquet"
    paths = [Path(found.path) for found in find_sources(source, cache_dir)]
    splits: dict[str, list[Path]] = {split: [] for split in patterns}
    for path in sorted(paths, key=lambda path: (path.name, str(path))):
        matching = [s for s in patterns if any(fnmatch(path.name, p) for p in patterns[s])]
        if len(matching) != 1:
            found = f"of {' and '.join(matching)}" if matching else "of no split"
            raise CriticError(
                f"{path}: by its name the file is {found}; name the files of a split, "
                f"e.g. --split train='{path.name}', or give a narrower --source"
            )
        splits[matching[0]].append(path)
    for split, files in splits.items():
        _warn_of_missing(split, files)
    return {split: files for split, files in splits.items() if files}


def to_patterns(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read options such as `train=part-*`; without any, the published names are expected."""
    patterns: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, equals, pattern = option.partition("=")
        if not (equals and pattern):
            raise CriticError(f"--split {option!r} names no files; write e.g. train='train-*'")
        split = to_split(name.strip())
        patterns[split] = (*patterns.get(split, ()), pattern.strip())
    # The order of the options does not matter.
    return {split: patterns[split] for split in AS_PUBLISHED if split in patterns} or AS_PUBLISHED


def _warn_of_missing(split: str, paths: Sequence[Path]) -> None:
    """Compare with the total in published names: `train-00000-of-00039-<hash>.parquet`."""
    numbers = [match for path in paths if (match := _NUMBERED.search(path.name))]
    if numbers:
        wanted = int(numbers[0][2])
        present = len({int(match[1]) for match in numbers})
        if present < wanted:
            log.warning("%s: only %d of %d published files are here", split, present, wanted)
