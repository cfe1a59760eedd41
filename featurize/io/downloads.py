"""Dataset files at URIs, each downloaded once per machine.

NOTE: not fsspec's caches. After a kill `simplecache` serves half a file, `filecache` overwrites the
copy that another process reads when the file changes, and neither notices a change over HTTP.
"""

import glob
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from featurize.errors import DataError
from featurize.io.files import TEMPORARY_SUFFIX, atomic_path, sole_writer
from featurize.io.remote import open_filesystem, retry, without_queries

_TAGS = (
    "etag", "content-md5", "digest", "md5hash", "blob_id",
    "lastmodified", "last-modified", "last_modified", "mtime", "modified", "updated", "created",
)  # fmt: skip
"""Fields in which filesystems give the version of a file, the most reliable first."""

_SECONDS_BETWEEN_REPORTS = 10
_HUB = "hf://"
_HUB_REMEDY = (
    "check the URI; a private or gated dataset needs a token: set HF_TOKEN or run hf auth login"
)

Entry = Mapping[str, Any]
"""What a filesystem says about a file."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file at a URI, as it was when it was found."""

    name: str  # its URI without query, for messages
    size: int | None  # in bytes; None if the server does not say
    tag: str  # ETag, digest or time of change; empty if the server gives none
    files: Any = field(repr=False)  # its filesystem
    path: str = field(repr=False)  # in that filesystem

    @property
    def version(self) -> str:
        """A digest of URI, size and tag, which changes with the content."""
        content = f"{self.path}\0{self.name}\0{self.size}\0{self.tag}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def fetch(self, cache_dir: Path) -> Path:
        """Get a copy on this machine; one process downloads it, others wait for that one.

        A copy with its final name is complete. Each version of a file has its own folder.

        Raises:
            DataError: the file changed during the download.
            OSError: the download failed; the message names the URI.
        """
        folder = cache_dir / "datasets" / self.version
        copy = folder / self.name.rpartition("/")[2]
        if copy.exists():
            return copy
        with sole_writer(folder, patience=math.inf) as is_locked:
            for leftover in folder.glob(f"*{TEMPORARY_SUFFIX}") if is_locked else ():
                leftover.unlink()  # of a killed process
            if not copy.exists():
                self._download(copy)
        return copy

    def _download(self, copy: Path) -> None:
        logger.info("fetching %s%s", self.name, _in_megabytes(self.size))
        start = time.monotonic()
        with atomic_path(copy) as temporary:
            retry(lambda: self._copy_to(temporary), self.name)
            num_bytes = temporary.stat().st_size
            if _tag(_ask(self.files, self.path, self.name)) != self.tag:
                raise DataError(f"{self.name}: changed while it was fetched; run this again")
        seconds = time.monotonic() - start
        logger.info("fetched %s%s in %.1f s", self.name, _in_megabytes(num_bytes), seconds)
        if not self.tag:
            logger.warning(
                "%s: its server gives neither an ETag nor a time of change, so a change that keeps "
                "the size goes unnoticed; delete %s to fetch it again",
                self.name,
                copy,
            )

    def _copy_to(self, target: Path) -> None:
        last = time.monotonic()

        def report(size: int | None, value: int, **_: object) -> None:
            nonlocal last
            if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
                last = time.monotonic()
                total = _in_megabytes(size or self.size)
                logger.info("fetching %s: %.1f MB%s", self.name, value / 1e6, total)

        callback = fsspec.callbacks.Callback(hooks={"report": report})
        self.files.get_file(self.path, str(target), callback=callback)
        num_bytes = target.stat().st_size
        if self.size is not None and num_bytes != self.size:
            raise ConnectionError(f"received {num_bytes:,} of {self.size:,} bytes")


def find_remote_files(pattern: str) -> list[RemoteFile]:
    """The files that a URI or a glob of URIs names, sorted by path.

    Raises:
        DataError: no file matches, or the URI is a folder.
        OSError: the filesystem is unknown or not installed, or the server cannot be reached.
    """
    shown = without_queries(pattern)
    is_glob = glob.has_magic(shown)
    _check_hub_uri(shown)
    try:
        files, root = open_filesystem(pattern)
        entries = _match(files, root, shown) if is_glob else {}
        entries = entries or {root: _ask(files, root, shown)}  # a plain name may contain brackets
    except FileNotFoundError as error:
        what = "matches no file" if is_glob else "is not there"
        # NOTE: the Hub does not tell a private dataset from one that is not there.
        remedy = (
            _HUB_REMEDY if shown.startswith(_HUB) else "check the URI, and that it may be listed"
        )
        raise DataError(f"{shown!r} {what}; {remedy}") from error
    return [
        RemoteFile(
            name=_name(files, path, pattern, root),
            size=entry.get("size"),
            tag=_tag(entry),
            files=files,
            path=path,
        )
        for path, entry in sorted(entries.items())
    ]


def _check_hub_uri(uri: str) -> None:
    if uri.startswith(f"{_HUB}datasets/") and len(uri.split("/")) < 6:
        raise DataError(f"{uri!r} names no file; write hf://datasets/<owner>/<dataset>/<file>")


def _match(files: Any, pattern: str, shown: str) -> dict[str, Entry]:
    """The files that match a glob, from one listing if that gives their tags."""

    def look() -> Mapping[str, Entry]:
        files.invalidate_cache()
        found: Mapping[str, Entry] = files.glob(pattern, detail=True)
        return found

    found = retry(look, shown)
    return {
        # A web page of links says nothing about the files behind them, so each is asked for.
        path: entry if _tag(entry) else _ask(files, path, shown)
        for path, entry in found.items()
        if entry["type"] == "file"
    }


def _ask(files: Any, path: str, shown: str) -> Entry:
    """What the filesystem says about one file now."""

    def look() -> Entry:
        files.invalidate_cache()
        try:
            found: Entry = files.info(path)
        except FileNotFoundError as error:
            # NOTE: fsspec reports every failure over HTTP as "not found"; the cause has the status.
            cause = error.__cause__
            is_absent = getattr(cause, "status", None) in (404, 410)
            if cause is None or is_absent or not shown.startswith("http"):
                raise
            raise cause from None
        return found

    entry = retry(look, shown)
    if entry["type"] != "file":
        raise DataError(
            f"{shown!r} is a folder; name a file or a glob such as '{shown.rstrip('/')}/*'"
        )
    return entry


def _tag(entry: Entry) -> str:
    values = {key.lower(): value for key, value in entry.items() if value}
    tag = next((values[key] for key in _TAGS if key in values), "")
    # A listing and a question about one file may give the same time in two forms.
    return str(tag.timestamp() if isinstance(tag, datetime) else tag)


def _name(files: Any, path: str, pattern: str, root: str) -> str:
    """The URI of a file found for `pattern`, written like the pattern."""
    if path == root:
        return without_queries(pattern).partition("::")[0]
    if pattern.endswith(root):
        return without_queries(pattern.removesuffix(root) + path)
    return without_queries(files.unstrip_protocol(path))


def _in_megabytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f" ({num_bytes / 1e6:,.1f} MB)"
