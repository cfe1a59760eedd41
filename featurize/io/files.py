"""Files of this machine: atomic writes, checksums, locks, and free memory."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from featurize.errors import FeatureStoreError

TEMPORARY_SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    On an error (such as a full disk) the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        with naming_errors(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            # NOTE: the rename is stored in the folder; without this a power cut may undo it.
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Add the file's name to errors of an open file, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; ValueError for NaN and inf."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str = "delete it and rerun") -> Any:
    """Read JSON; ValueError with the file's name if it is damaged.

    `remedy` is for a file that is the user's own, which no run writes again.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {remedy}") from error


def read_object(path: Path, remedy: str = "delete it and rerun") -> dict[str, Any]:
    """Read a JSON object as `read_json`; ValueError for any other JSON."""
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is not a JSON object; {remedy}")
    return content


def share_weights(folder: Path) -> None:
    """Give the weights that transformers saved the mode of `config.json`.

    safetensors writes them through a temporary file that its owner alone may read.
    """
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def checksum(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest(value: Any) -> str:
    """BLAKE2b-128 of a JSON value with sorted keys, hex: equal values, equal digest."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def available_memory() -> int:
    """Bytes this process may still allocate, on the machine and in its control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (allowed := limit.read_text().strip()).isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, int(allowed) - used)
    return available


LOCK_FILE = "writer.lock"

PATIENCE = 5.0
"""Seconds to wait for another run, which may be about to end."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def sole_writer(folder: Path, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold the lock of a folder, across machines if its file system has locks.

    Yields whether there is a lock: False on a file system without locks.

    NOTE: the lock file stays. If it were removed, one run could lock the removed file while the
    next one makes and locks a new file. Its content is for people; only the lock counts.

    Raises:
        FeatureStoreError: another run still holds the lock after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        is_locked = _lock(file, folder, patience)
        _write_holder(file)
        yield is_locked


def _lock(file: IO[str], folder: Path, patience: float) -> bool:
    """Wait for the lock; False on a file system without locks."""
    start = time.monotonic()
    is_waiting = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= start + patience:
                raise FeatureStoreError(
                    f"{folder}: another run writes in this folder ({_read_holder(file)}); wait for"
                    " it to end, or stop it and run this again"
                ) from None
            if not is_waiting:
                logger.info("%s: waiting for %s to finish", folder, _read_holder(file))
            is_waiting = True
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: this file system has no locks; start no second run", file.name)
            return False
        else:
            return True


def _write_holder(file: IO[str]) -> None:
    holder = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):  # a full disk: writing the units will fail
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), (json.dumps(holder) + "\n").encode())


def _read_holder(file: IO[str]) -> str:
    """Who holds the lock, in words."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return "process {process} on {machine} since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
