"""A lock that lets one run at a time write to a folder.

The operating system releases it when its holder ends.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from featurize.errors import FeatureStoreError

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
