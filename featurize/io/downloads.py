"""Files of a dataset that lie at a URI, and their copies on this machine, each fetched once."""

import fcntl
import glob
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from featurize.errors import DataError
from featurize.io.files import TEMPORARY_SUFFIX, atomic_path
from featurize.io.remote import open_filesystem, try_again

_MARKS = (
    "etag", "content-md5", "digest", "md5hash",
    "lastmodified", "last-modified", "last_modified", "mtime", "modified", "updated", "created",
)  # fmt: skip
"""Under what names filesystems say which content an object has, or from when it is; best first."""

_SECONDS_BETWEEN_REPORTS = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """An object at a URI, as it was when it was found."""

    name: str  # its URI; messages show this
    size: int | None  # in bytes, where its server tells
    mark: str  # changes with its content; empty where its server tells of nothing but the size
    files: Any = field(repr=False)  # the filesystem
    path: str = field(repr=False)  # in it

    @property
    def version(self) -> str:
        """Tells this content from any other object's, and from what it was before or becomes."""
        content = f"{self.path}\0{self.name}\0{self.size}\0{self.mark}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def fetch(self, cache_dir: Path) -> Path:
        """The copy on this machine; one process fetches it, the others wait for that one.

        A copy that has its name is whole. A changed object is another copy, in another folder.

        Raises:
            DataError: the object changed meanwhile.
            OSError: it cannot be had; the message names the URI.
        """
        folder = cache_dir / "datasets" / self.version
        copy = folder / self.name.rpartition("/")[2]
        if copy.exists():
            return copy
        folder.mkdir(parents=True, exist_ok=True)
        with _sole_holder(folder / "lock", self.name) as is_sole:
            if is_sole:  # what is unfinished was left by a killed process
                for leftover in folder.glob(f"*{TEMPORARY_SUFFIX}"):
                    leftover.unlink()
            if not copy.exists():
                self._download(copy)
        return copy

    def _download(self, copy: Path) -> None:
        logger.info("fetching %s%s", self.name, _in_megabytes(self.size))
        start = time.monotonic()
        with atomic_path(copy) as temporary:
            try_again(lambda: self._copy_to(temporary), self.name)
            num_bytes = temporary.stat().st_size
            if _look(self.files, self.path, self.name)[1] != self.mark:
                raise DataError(f"{self.name}: changed while it was fetched; start again")
        seconds = time.monotonic() - start
        logger.info("fetched %s%s in %.1f s", self.name, _in_megabytes(num_bytes), seconds)
        if not self.mark:
            logger.warning(
                "%s: its server does not tell when it changes, only of another size; delete %s to "
                "fetch it anew",
                self.name,
                copy,
            )

    def _copy_to(self, target: Path) -> None:
        last = time.monotonic()

        def report(size: int | None, value: int, **_: object) -> None:
            nonlocal last
            if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
                last = time.monotonic()
                of = _in_megabytes(size or self.size)
                logger.info("fetching %s: %.1f MB%s", self.name, value / 1e6, of)

        hooks = {"report": report}
        self.files.get_file(self.path, str(target), callback=fsspec.callbacks.Callback(hooks=hooks))
        num_bytes = target.stat().st_size
        if self.size is not None and num_bytes != self.size:
            raise ConnectionError(f"{num_bytes:,} bytes came of {self.size:,}")


def find_remote_files(pattern: str) -> list[RemoteFile]:
    """The objects that a URI or a glob of them names, in the order of their names.

    Raises:
        DataError: there is none.
        OSError: whom to ask, or how, is not known; or there is no answer.
    """
    shown = _without_query(pattern)
    try:
        files, root = open_filesystem(pattern)
        found = _expand(files, root, shown) if glob.has_magic(shown) else {}
        found = found or {root: _look(files, root, shown)}
    except FileNotFoundError as error:
        what = "matches no file" if glob.has_magic(shown) else "is not there"
        raise DataError(f"{shown!r} {what}; check the URI, and that it may be listed") from error
    return [
        RemoteFile(name=_name(files, path, pattern, root), size=size, mark=mark,
                   files=files, path=path)
        for path, (size, mark) in sorted(found.items())
    ]  # fmt: skip


def _expand(files: Any, pattern: str, shown: str) -> dict[str, tuple[int | None, str]]:
    """Size and mark of every file that a glob matches: one listing where that says enough."""

    def look() -> Mapping[str, Mapping[str, Any]]:
        files.invalidate_cache()
        found: Mapping[str, Mapping[str, Any]] = files.glob(pattern, detail=True)
        return found

    entries = try_again(look, shown)
    found = {path: _size_and_mark(at) for path, at in entries.items() if at["type"] == "file"}
    # A list of links, as the web's, says nothing about the files; each is asked then.
    return {path: at if at[1] else _look(files, path, shown) for path, at in found.items()}


def _look(files: Any, path: str, shown: str) -> tuple[int | None, str]:
    """Size and mark of one file."""

    def look() -> Mapping[str, Any]:
        files.invalidate_cache()
        try:
            found: Mapping[str, Any] = files.info(path)
        except FileNotFoundError as error:
            # NOTE: over HTTP fsspec says "not found" of whatever goes wrong; the cause tells.
            cause = error.__cause__
            is_told = getattr(cause, "status", None) in (404, 410)
            if cause is None or is_told or not shown.startswith("http"):
                raise
            raise cause from None
        return found

    entry = try_again(look, shown)
    if entry["type"] != "file":
        raise DataError(
            f"{shown!r} is a folder; name a file or a glob such as '{shown.rstrip('/')}/*'"
        )
    return _size_and_mark(entry)


def _size_and_mark(entry: Mapping[str, Any]) -> tuple[int | None, str]:
    values = {key.lower(): value for key, value in entry.items() if value}
    mark = next((values[key] for key in _MARKS if key in values), "")
    # A listing may tell the time in another way than a look at one file.
    mark = mark.timestamp() if isinstance(mark, datetime) else mark
    return entry.get("size"), str(mark)


def _name(files: Any, path: str, pattern: str, root: str) -> str:
    """The URI of a file that was found for `pattern`, written as the pattern is."""
    if path == root:
        return _without_query(pattern).partition("::")[0]
    if pattern.endswith(root):
        return pattern.removesuffix(root) + path
    return str(files.unstrip_protocol(path))


def _without_query(uri: str) -> str:
    """What may be shown of a URI: behind the `?` of a web address there may be a signature."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


@contextmanager
def _sole_holder(lock: Path, name: str) -> Iterator[bool]:
    """One process is in this block, the others wait; yields whether that is so.

    Where the file system has no locks all go on: each writes under a name of its own.
    """
    with lock.open("a") as file:
        is_sole = False
        with suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process to fetch %s", name)
                fcntl.flock(file, fcntl.LOCK_EX)
            is_sole = True
        yield is_sole


def _in_megabytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f" ({num_bytes / 1e6:,.1f} MB)"
