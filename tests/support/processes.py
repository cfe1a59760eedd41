"""Fresh interpreters, and waiting for what other processes and threads do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_python(
    *words: str, folder: Path = REPOSITORY, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with arguments in a folder, its environment ours and these variables."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def output_of(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(is_done: Callable[[], bool], *, seconds: float = 120, pause: float = 0.002) -> None:
    """Returns when it is done; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)
