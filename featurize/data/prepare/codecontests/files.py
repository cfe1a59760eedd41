"""Finds the Parquet files of CodeContests and tells by their names which split they hold."""

import glob
import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from featurize.data.sources import find_sources
from featurize.errors import CriticError
from featurize.io.remote import is_remote
from featurize.settings import to_split

log = logging.getLogger(__name__)

AS_PUBLISHED = {"train": ("train-*",), "valid": ("valid-*", "validation-*"), "test": ("test-*",)}
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\b")


def find_splits(
    source: str, patterns: Mapping[str, Sequence[str]], cache_dir: Path | None = None
) -> dict[str, list[Path]]:
    """Return the files of each split that has any, in the order of their names.

    `source` is a folder, a glob, a file or a URI, of which the copies in `cache_dir` are returned;
    `patterns` match names of files.
    """
    found: dict[str, list[Path]] = {split: [] for split in patterns}
    for path in _find_files(source, cache_dir):
        splits = [
            split
            for split, globs in patterns.items()
            if any(fnmatch(path.name, pattern) for pattern in globs)
        ]
        if len(splits) != 1:
            told = f"of {' and '.join(splits)}" if splits else "of no split"
            raise CriticError(
                f"{path}: by its name the file is {told}; say which files are, "
                f"e.g. --split train='{path.name}', or give a narrower --source"
            )
        found[splits[0]].append(path)
    for split, paths in found.items():
        _warn_of_missing(split, paths)
    return {split: paths for split, paths in found.items() if paths}


def to_patterns(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read options such as `train=part-*`; without any, files are named as they are published."""
    patterns: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, equals, pattern = option.partition("=")
        if not (equals and pattern):
            raise CriticError(f"--split {option!r} names no files; write e.g. train='train-*'")
        split = to_split(name.strip())
        patterns[split] = (*patterns.get(split, ()), pattern.strip())
    # In one order, whichever the options were given in.
    return {split: patterns[split] for split in AS_PUBLISHED if split in patterns} or AS_PUBLISHED


def _find_files(source: str, cache_dir: Path | None) -> list[Path]:
    folder = Path(source).expanduser()
    if is_remote(source):
        paths = [Path(found.path) for found in find_sources(source, cache_dir)]
    elif folder.is_dir():
        paths = [path for path in folder.rglob("*.parquet") if path.is_file()]
        if not paths:
            raise CriticError(
                f"{source!r} holds no .parquet file; download those of deepmind/code_contests into "
                "it, or name another folder"
            )
    else:
        # NOTE: Path.glob refuses absolute patterns; a file whose name looks like one is a file.
        names = [str(folder)] if folder.is_file() else glob.glob(str(folder), recursive=True)  # noqa: PTH207
        paths = [Path(name) for name in names if Path(name).is_file()]
        if not paths:
            raise CriticError(
                f"{source!r} matches no file; check the path (now in {str(Path.cwd())!r})"
            )
    return sorted(paths, key=lambda path: (path.name, str(path)))


def _warn_of_missing(split: str, paths: Sequence[Path]) -> None:
    """Published files say how many there are: `train-00000-of-00039-<hash>.parquet`."""
    numbers = [match for path in paths if (match := _NUMBERED.search(path.name))]
    if numbers:
        wanted = int(numbers[0][2])
        there = len({int(match[1]) for match in numbers})
        if there < wanted:
            log.warning("%s: only %d of %d published files are here", split, there, wanted)
