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
def sole_writer(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a folder, on all machines that see it, while the block runs.

    The file stays after the lock is released: if it were removed, one run could lock the old file
    while the next creates and locks another. Its content is informative; only the lock counts, so
    a killed run blocks nobody.

    Raises:
        FeatureStoreError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        give_up = time.monotonic() + patience
        while not _lock(file):
            if time.monotonic() >= give_up:
                raise FeatureStoreError(
                    f"{folder}: another run writes in this folder ({_holder(file)}); wait for it to"
                    " end, or stop it and run this again"
                )
            time.sleep(0.1)
        holder = {
            "process": os.getpid(),
            "machine": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: writing the units will fail
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), (json.dumps(holder) + "\n").encode())
        yield


def _lock(file: IO[str]) -> bool:
    """Try to take the lock; True also if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks; do not start a second run", file.name)
    return True


def _holder(file: IO[str]) -> str:
    """A description of the holder, from the file."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return "process {process} on {machine} since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):
        return "unknown"
