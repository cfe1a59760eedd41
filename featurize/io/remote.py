"""Folders of files on this machine or at a URI, with retries when a connection drops."""

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
from typing import Any, TypeVar

from featurize.io.files import checksum

MAX_TRIES = 5
FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""

FILES_AT_ONCE = 64
"""Files per transfer, each with its own connection; a failed transfer is repeated as a whole."""

_BLOCK_BYTES = 8 << 20
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


def is_remote(location: Path | str) -> bool:
    """Whether a location is a URI rather than a path on this machine."""
    return "://" in str(location)


class LocalFolder:
    """A folder on this machine; names are relative to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Sizes in bytes of the files directly in a subfolder, by name; {} if it does not exist."""
        folder = self.path / subfolder
        if not folder.is_dir():
            return {}
        return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}

    def read(self, name: str) -> bytes | None:
        """Read a whole file; None if it does not exist."""
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def checksum(self, name: str) -> str:
        """BLAKE2b-128 of a file in hex."""
        return checksum(self.path / name)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with its content, if it exists."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class RemoteFolder:
    """A folder at a URI such as `s3://bucket/folder`; credentials come from the environment.

    Failures are retried, since a connection may drop; the last one is an OSError that names the
    URI. Uploads are atomic if the server's are, as those of S3 are.
    """

    def __init__(self, uri: str) -> None:
        """Connect to nothing yet.

        Raises:
            OSError: the URI's filesystem is not installed, or unknown.
        """
        self.uri = uri.rstrip("/")
        self._files, self._root = open_filesystem(self.uri)

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Sizes in bytes of the files directly in a subfolder, by name; {} if it does not exist."""

        def look() -> dict[str, int]:
            self._files.invalidate_cache()  # another machine may have added files
            found = self._files.ls(self._path(subfolder), detail=True)
            files = [entry for entry in found if entry["type"] == "file"]
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}

        try:
            return self._retry(look, subfolder)
        except FileNotFoundError:
            return {}

    def read(self, name: str) -> bytes | None:
        """Read a whole file; None if it does not exist."""
        try:
            content: bytes = self._retry(lambda: self._files.cat_file(self._path(name)), name)
        except FileNotFoundError:
            return None
        return content

    def read_start(self, name: str, num_bytes: int) -> bytes:
        """Read the first bytes of a file."""
        path = self._path(name)
        return self._retry(lambda: bytes(self._files.cat_file(path, start=0, end=num_bytes)), name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read many small files; those that do not exist are left out."""
        contents: dict[str, bytes] = {}
        for start in range(0, len(names), FILES_AT_ONCE):
            paths = {self._path(name): name for name in names[start : start + FILES_AT_ONCE]}
            found = self._retry(functools.partial(self._read_existing, list(paths)), "")
            contents |= {paths[path]: content for path, content in found.items()}
        return contents

    def _read_existing(self, paths: list[str]) -> dict[str, bytes]:
        # NOTE: on_error="omit" would take a dropped connection for a missing file.
        found = self._files.cat(paths, on_error="return")
        # NOTE: for a single path fsspec returns the bytes themselves.
        found = found if isinstance(found, Mapping) else dict.fromkeys(paths, found)
        for content in found.values():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
        return {path: content for path, content in found.items() if isinstance(content, bytes)}

    def checksum(self, name: str) -> str:
        """BLAKE2b-128 of a file in hex, read in blocks."""

        def read() -> str:
            running = hashlib.blake2b(digest_size=16)
            with self._files.open(self._path(name), "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    running.update(block)
            return running.hexdigest()

        return self._retry(read, name)

    def download(self, names: Sequence[str], targets: Sequence[Path]) -> None:
        """Download files, several at a time; all are complete when this returns."""
        for start in range(0, len(names), FILES_AT_ONCE):
            some = slice(start, start + FILES_AT_ONCE)
            sources = [self._path(name) for name in names[some]]
            copies = [str(target) for target in targets[some]]
            self._retry(functools.partial(self._files.get, sources, copies), names[start])

    def upload(self, source: Path, name: str) -> None:
        """Upload a file of any size."""

        def send() -> None:
            # NOTE: not open(..., "wb"): fsspec completes the file even if an error ends the block.
            self._files.put_file(str(source), self._path(name))

        def send_into_new_folder() -> None:
            # Object stores have no folders, but other filesystems need them. A missing bucket is
            # not created, because its name is more likely misspelt.
            top = re.match("/*[^/]*", self._root)
            if top is None or not self._files.exists(top[0]):
                raise FileNotFoundError("no such bucket or folder")
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            send()

        try:
            self._retry(send, name)
        except FileNotFoundError:
            self._retry(send_into_new_folder, name)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with its content, if it exists."""

        def clear() -> None:
            self._files.invalidate_cache()
            if self._files.exists(self._path(name)):
                self._files.rm(self._path(name), recursive=True)

        self._retry(clear, name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _retry(self, work: Callable[[], Value], name: str) -> Value:
        return retry(work, f"{self.uri}/{name}")


Folder = LocalFolder | RemoteFolder
"""Both have `sizes`, `read`, `checksum` and `remove`."""


def open_folder(location: Path | str) -> Folder:
    """The folder at a path or URI, which need not exist yet."""
    return RemoteFolder(str(location)) if is_remote(location) else LocalFolder(Path(location))


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Get the filesystem of a URI and the path in it.

    Raises:
        OSError: the URI's filesystem is not installed, or unknown.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        where = without_queries(uri)
        raise OSError(f"{where}: cannot be opened ({error}); s3:// needs critic[s3]") from error
    return files, path


def retry(work: Callable[[], Value], where: str) -> Value:
    """Call `work` up to MAX_TRIES times, with growing waits, until it succeeds.

    Raises:
        OSError: it failed for good or every time; the message is one line that starts with `where`.
    """
    for number in range(1, MAX_TRIES + 1):
        try:
            return work()
        except _FINAL as error:
            raise type(error)(f"{where}: {without_queries(error)}") from error
        # NOTE: each filesystem raises the errors of its library, which share no base class.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL_DISK:
                raise
            if refusal := _refusal(error):
                raise PermissionError(f"{where}: {refusal}") from error
            what = f"{where}: {type(error).__name__}: {without_queries(error)}".partition("\n")[0]
            if number == MAX_TRIES:
                raise OSError(f"{what} (tried {MAX_TRIES} times); rerun to resume") from error
            wait = FIRST_WAIT * 2 ** (number - 1)
            logger.warning("%s; trying again in %.1f s", what, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def without_queries(message: object) -> str:
    """A message without the queries of web addresses, which may contain signatures."""
    end = r"(?=['\"]?[,;:).]*(?:\s|$))"  # punctuation of the message stays
    return re.sub(rf"(https?://[^\s?'\"]+)\?\S*?{end}", r"\1", str(message))


def user_cache_dir() -> Path:
    """The user's cache folder, for files that can be downloaded or computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "critic"


def _refusal(error: Exception) -> str | None:
    """Why a server refuses access, if that is the error."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            f"no credentials ({error}); s3:// takes them from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or the machine's role"
        )
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set, so the Hub is not asked; unset it, or name a local file"
    response = getattr(error, "response", None)  # of an error of the Hub
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if status in (401, 403):
        remedy = "; set HF_TOKEN or run hf auth login" if response is not None else ""
        return f"refused ({status} {getattr(error, 'message', '')})".replace(" )", ")") + remedy
    return None
