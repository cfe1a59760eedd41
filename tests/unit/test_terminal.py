"""What a terminal gets to see when things end early."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CTRL_C_IN_A_DESTRUCTOR = """
import signal, sys, time
from configs.terminal import keep_interrupts

class Busy:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

if "keep" in sys.argv:
    keep_interrupts()
try:
    Busy()
    time.sleep(1)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CTRL_C_IN_A_DESTRUCTOR, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def test_an_interrupt_in_a_destructor_is_neither_lost_nor_printed() -> None:
    done = run("keep")
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_without_that_python_would_go_on() -> None:
    done = run()
    assert done.stdout == "went on\n"
    assert "KeyboardInterrupt" in done.stderr
