"""Write feature stores in child processes that are killed or run out of disk space.

Run as `python -m tests.support.interrupted_writer FOLDER`; FOLDER then holds

    step-000, step-001, ...   killed before the nth call that opens, syncs, renames or removes
    killed-<bytes>            killed by the kernel when a file reaches that size
    full-<bytes>              an error when a file reaches that size

It is a separate process because a fork of pytest would inherit the locks of its threads.
"""

import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.unit_features import write_missing

BYTE_LIMITS = (0, 1, 64, 150, 240, 700, 1500, 3000, 5000)
WATCHED = {"open", "os.mkdir", "os.rename", "os.remove"}
KILLED, DISK_FULL = 9, 28


def main(folder: Path) -> None:
    write_missing(folder / "whole")  # imports what the children use
    for step in itertools.count():
        path = folder / f"step-{step:03d}"
        if run_child(path, lambda path=path, step=step: die_at(step, path)) != KILLED:
            break
    for limit in BYTE_LIMITS:
        run_child(folder / f"killed-{limit}", lambda limit=limit: limit_files(limit, True))
        run_child(folder / f"full-{limit}", lambda limit=limit: limit_files(limit, False))


def run_child(path: Path, prepare: Callable[[], None]) -> int:
    """Write a store in a forked process; returns its exit code, or the negated signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            write_missing(path)
            code = 0
        except OSError:
            code = DISK_FULL
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(step: int, path: Path) -> None:
    """End this process, without clean-up, before its nth watched call on a file in `path`."""
    calls = itertools.count()

    def count_call() -> None:
        if next(calls) == step:
            os._exit(KILLED)

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event in WATCHED and str(args[0]).startswith(str(path)):
            count_call()

    os.fsync = lambda _: count_call()  # the kernel keeps written data when a process dies
    sys.addaudithook(watch)


def limit_files(num_bytes: int, is_deadly: bool) -> None:
    """Limit files to `num_bytes`; a longer write kills the process or is an error."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if is_deadly else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
