"""A folder of files wherever it lies: on this machine, or by URI on anything fsspec knows."""

import errno
import functools
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from featurize.io.files import checksum

TRIES = 5
FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""

FILES_AT_ONCE = 64
"""Files of one transfer: as many connections, and as much that is done again when it fails."""

_BLOCK_BYTES = 8 << 20
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class Folder(Protocol):
    """What can be done with a folder wherever it lies; names are relative to it."""

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Bytes of each file directly in a subfolder, by its name there; {} where there is none."""

    def read(self, name: str) -> bytes | None:
        """A whole file; None where there is none."""

    def checksum(self, name: str) -> str:
        """BLAKE2b-128 of a file, hex."""

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it, if it is there."""


def is_remote(location: Path | str) -> bool:
    """Whether it is a URI rather than a path on this machine."""
    return "://" in str(location)


def open_folder(location: Path | str) -> "Folder":
    """The folder at a path or URI, which need not be there yet."""
    return RemoteFolder(str(location)) if is_remote(location) else LocalFolder(Path(location))


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Bytes of each file directly in a subfolder, by its name there; {} where there is none."""
        folder = self.path / subfolder
        if not folder.is_dir():
            return {}
        return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}

    def read(self, name: str) -> bytes | None:
        """A whole file; None where there is none."""
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def checksum(self, name: str) -> str:
        """BLAKE2b-128 of a file, hex."""
        return checksum(self.path / name)

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it, if it is there."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class RemoteFolder:
    """A folder by URI, such as `s3://bucket/folder`; who may enter is up to the environment.

    What fails is tried again, for a connection may drop; a last failure is an OSError that names
    the URI. Files appear whole or not at all where the store of objects works so, as S3 does.
    """

    def __init__(self, uri: str) -> None:
        """Opens nothing yet.

        Raises:
            OSError: the URI's filesystem is not installed, or unknown.
        """
        self.uri = uri.rstrip("/")
        self._files, self._root = open_filesystem(self.uri)

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Bytes of each file directly in a subfolder, by its name there; {} where there is none."""

        def look() -> dict[str, int]:
            self._files.invalidate_cache()  # of listings: another machine may have added files
            found = self._files.ls(self._path(subfolder), detail=True)
            files = [entry for entry in found if entry["type"] == "file"]
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}

        try:
            return self._again(look, subfolder)
        except FileNotFoundError:
            return {}

    def read(self, name: str) -> bytes | None:
        """A whole file; None where there is none."""
        try:
            content: bytes = self._again(lambda: self._files.cat_file(self._path(name)), name)
        except FileNotFoundError:
            return None
        return content

    def read_start(self, name: str, num_bytes: int) -> bytes:
        """The first bytes of a file."""
        path = self._path(name)
        return self._again(lambda: bytes(self._files.cat_file(path, start=0, end=num_bytes)), name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Many small files by their names; those that are not there are left out."""
        contents: dict[str, bytes] = {}
        for start in range(0, len(names), FILES_AT_ONCE):
            paths = {self._path(name): name for name in names[start : start + FILES_AT_ONCE]}
            found = self._again(functools.partial(self._read_those_there, list(paths)), "")
            contents |= {paths[path]: content for path, content in found.items()}
        return contents

    def _read_those_there(self, paths: list[str]) -> dict[str, bytes]:
        # NOTE: on_error="omit" would take a dropped connection for a file that is not there.
        found = self._files.cat(paths, on_error="return")
        # NOTE: of a single path fsspec returns the bytes themselves.
        found = found if isinstance(found, Mapping) else dict.fromkeys(paths, found)
        for content in found.values():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
        return {path: content for path, content in found.items() if isinstance(content, bytes)}

    def checksum(self, name: str) -> str:
        """BLAKE2b-128 of a file, hex; it is read in pieces and kept nowhere."""

        def read() -> str:
            running = hashlib.blake2b(digest_size=16)
            with self._files.open(self._path(name), "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    running.update(block)
            return running.hexdigest()

        return self._again(read, name)

    def download(self, names: Sequence[str], targets: Sequence[Path]) -> None:
        """Copies files to this machine, several at a time; every one is whole when it returns."""
        for start in range(0, len(names), FILES_AT_ONCE):
            piece = slice(start, start + FILES_AT_ONCE)
            sources = [self._path(name) for name in names[piece]]
            copies = [str(target) for target in targets[piece]]
            self._again(functools.partial(self._files.get, sources, copies), names[start])

    def upload(self, source: Path, name: str) -> None:
        """Copies a file of this machine, of any size."""

        def send() -> None:
            # NOTE: not open(..., "wb"): fsspec completes a file even when an error ends its block.
            self._files.put_file(str(source), self._path(name))

        def send_into_new_folder() -> None:
            # Where folders are things of their own. In a bucket they are not, and a bucket that is
            # not there is more likely misspelt than meant to be made.
            top = re.match("/*[^/]*", self._root)
            if top is None or not self._files.exists(top[0]):
                raise FileNotFoundError("there is no such bucket or folder")
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            send()

        try:
            self._again(send, name)
        except FileNotFoundError:
            self._again(send_into_new_folder, name)

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it, if it is there."""

        def clear() -> None:
            self._files.invalidate_cache()
            if self._files.exists(self._path(name)):
                self._files.rm(self._path(name), recursive=True)

        self._again(clear, name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _again(self, work: Callable[[], Value], name: str) -> Value:
        """Does the work, some times over if need be."""
        return try_again(work, f"{self.uri}/{name}")


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI, and its path there.

    Raises:
        OSError: the URI's filesystem is not installed, or unknown.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        shown = _without_queries(uri)
        raise OSError(f"{shown}: cannot be opened ({error}); s3:// needs critic[s3]") from error
    return files, path


def try_again(work: Callable[[], Value], where: str) -> Value:
    """Does work at a URI, some times over if need be.

    Raises:
        OSError: it fails for good, or again and again; one line, which names the URI.
    """
    for number in range(1, TRIES + 1):
        try:
            return work()
        except _FINAL as error:
            raise type(error)(f"{where}: {_without_queries(error)}") from error
        # NOTE: each filesystem raises what its library does; there is no common ancestor.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL_DISK:
                raise
            if refusal := _refusal(error):
                raise PermissionError(f"{where}: {refusal}") from error
            what = f"{where}: {type(error).__name__}: {_without_queries(error)}".partition("\n")[0]
            if number == TRIES:
                raise OSError(f"{what} (tried {TRIES} times); rerun to go on") from error
            wait = FIRST_WAIT * 2 ** (number - 1)
            logger.warning("%s; trying again in %.1f s", what, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _without_queries(message: object) -> str:
    """A message without what stands behind the ? of web addresses, which may be a signature."""
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", str(message))


def user_cache_dir() -> Path:
    """Where this user's programs keep what can be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "critic"


def _refusal(error: Exception) -> str | None:
    """Why a server will not let us in, if that is what it says."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            f"no credentials ({error}); s3:// takes them from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or the machine's role"
        )
    if (status := getattr(error, "status", None)) in (401, 403):
        return f"refused ({status} {getattr(error, 'message', '')})"
    return None
