"""What a terminal gets to see."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from configs.console import columns_table, rows_table
from tests.support.processes import run_python

ROOT = Path(__file__).parents[3]
CTRL_C_IN_A_DESTRUCTOR = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from featurize.io.interrupts import keep_interrupts

class Busy:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

keep_interrupts()
try:
    Busy()
    time.sleep(1)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_in_a_destructor_is_neither_lost_nor_printed() -> None:
    done = run_python("-c", CTRL_C_IN_A_DESTRUCTOR)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_a_narrow_table_cuts_no_name_short() -> None:
    names = [f"features=mean.12+last.24 training.dropout=0.{number}" for number in range(3)]
    table = columns_table("points", ["point", "accuracy"], [[name, 0.5] for name in names])
    shown = io.StringIO()
    Console(file=shown, width=40).print(table)
    cells = "".join(line.split("│")[1].strip() for line in shown.getvalue().splitlines()[4:-1])
    assert cells.replace(" ", "") == "".join(names).replace(" ", "")


def test_a_narrow_table_of_values_cuts_no_path_short() -> None:
    path = "dataset.validation=/data/" + "part/" * 12 + "valid.jsonl"
    shown = io.StringIO()
    Console(file=shown, width=60).print(rows_table("store", {"made by": f"critic {path}"}))
    cells = "".join(line.split("│")[2].strip() for line in shown.getvalue().splitlines()[2:-1])
    assert cells.replace(" ", "") == f"critic{path}"


def test_a_title_wider_than_its_table_stays_on_one_line() -> None:
    table = rows_table("features in storage/features/demo/train", {"seconds": "1.0"})
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    assert shown.getvalue().splitlines()[0] == "features in storage/features/demo/train"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(closed: str) -> None:
    command = f"{sys.executable} -m cli --version {closed}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_mistake_has_its_exit_code_though_outputs_are_closed() -> None:
    command = f"{sys.executable} -m cli inspect /nowhere >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=ROOT, check=False).returncode == 2
