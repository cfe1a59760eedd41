"""One run at a time writes a store or trains in a folder.

By a lock of the operating system, which dies with its holder.
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
"""Seconds a run waits for another one, which may just be ending."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def sole_writer(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Nobody else is in this block for the same folder, on any machine that sees the folder.

    The file stays when the lock goes: a file that is removed could be locked by one run while the
    next one makes and locks another. What it says is for people; only the lock itself counts, so
    a run that was killed, however, stands in nobody's way.

    Raises:
        FeatureStoreError: another run holds the lock, and goes on holding it.
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
        with contextlib.suppress(OSError):  # a full disk: the units will tell
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), (json.dumps(holder) + "\n").encode())
        yield


def _lock(file: IO[str]) -> bool:
    """Whether this process has the lock now; True where the file system has no locks at all."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks; start no second run", file.name)
    return True


def _holder(file: IO[str]) -> str:
    """Who holds the lock, in words, as far as the file says."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return "process {process} on {machine} since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):
        return "which one is not known"
