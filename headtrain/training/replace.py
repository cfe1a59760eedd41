"""Replaces a run by another: the new one is complete before anything of the old one is deleted.

The new run is built in `<folder>/new`. When it is finished, new/swap.json lists what it has made,
and each of these takes its place in the folder, run.json last. A swap that was interrupted is
completed by the next run.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from featurize.io.files import read_json, write_json

RUN_FILE, SWAP_FILE = "run.json", "swap.json"


class Replacement:
    """The run that is to replace the one in a folder."""

    def __init__(self, folder: Path, patterns: Sequence[str]) -> None:
        """`patterns` match all that a run of this kind writes into the folder."""
        self.folder = folder
        self.path = folder / "new"
        self._patterns = patterns

    @property
    def is_interrupted(self) -> bool:
        """Whether a swap has begun and not ended."""
        return (self.path / SWAP_FILE).exists()

    def begin(self) -> Path:
        """Return the empty folder to build the new run in."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def finish(self) -> None:
        """Put the finished run in place of the old one."""
        names = [item.name for item in self._items(self.path)]
        write_json(self.path / SWAP_FILE, sorted(names))
        self.complete()

    def complete(self) -> None:
        """Take the steps of a swap that are left."""
        names = read_json(self.path / SWAP_FILE)
        if (self.path / RUN_FILE).exists():
            (self.folder / RUN_FILE).unlink(missing_ok=True)
        for name in names:
            if (self.path / name).exists():
                self._set_aside(self.folder / name)
                (self.path / name).rename(self.folder / name)
        for item in self._items(self.folder):
            if item.name not in names:
                self._set_aside(item)
        if (self.path / RUN_FILE).exists():
            (self.path / RUN_FILE).rename(self.folder / RUN_FILE)
        shutil.rmtree(self.path)

    def _items(self, folder: Path) -> list[Path]:
        return [item for pattern in self._patterns for item in sorted(folder.glob(pattern))]

    def _set_aside(self, item: Path) -> None:
        """Move something old, which is quick, to where it is deleted in the end."""
        if item.exists():
            aside = self.path / f"old-{item.name}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.unlink(missing_ok=True)
            item.rename(aside)
