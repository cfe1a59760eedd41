"""Copies of a remote store's files on this machine, fetched when they are first needed."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.io.files import TEMPORARY_SUFFIX, checksum, sync
from featurize.io.remote import FILES_AT_ONCE, RemoteFolder
from featurize.store.format import DamagedFileError


class CachedFiles:
    """Files of a store's units, downloaded once and compared with their checksums.

    A copy that is there under its own name was whole when it came, so it is not checked again.
    """

    def __init__(
        self, remote: RemoteFolder, folder: Path, expected: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """`expected`: bytes and checksum of each file, as the manifest has them."""
        self.folder = folder  # of these very files: a store made anew has another one
        self._remote = remote
        self._expected = expected
        self._present: set[str] = set()

    def fetch(self, names: Sequence[str]) -> None:
        """Brings the files here that are not.

        Raises:
            DamagedFileError: a file is missing there, or not the one the manifest names.
        """
        missing = [name for name in names if name not in self._present and not self._is_here(name)]
        for start in range(0, len(missing), FILES_AT_ONCE):
            self._download(missing[start : start + FILES_AT_ONCE])
        self._present.update(names)

    def _is_here(self, name: str) -> bool:
        path = self.folder / name
        return path.exists() and path.stat().st_size == self._expected[name]["bytes"]

    def _download(self, names: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Two processes may fetch the same file; each into a copy of its own.
        suffix = f".{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
        copies = [self.folder / f"{name}{suffix}" for name in names]
        try:
            self._remote.download([f"units/{name}" for name in names], copies)
            for name, copy in zip(names, copies, strict=True):
                if checksum(copy) != self._expected[name]["checksum"]:
                    raise DamagedFileError(self._remote.uri, name, "another checksum")
                sync(copy)
                copy.replace(self.folder / name)
            sync(self.folder)
        except FileNotFoundError as error:
            there = self._remote.sizes("units")
            lost = next((name for name in names if name not in there), names[0])
            raise DamagedFileError(self._remote.uri, lost, "missing") from error
        finally:
            for copy in copies:
                copy.unlink(missing_ok=True)
