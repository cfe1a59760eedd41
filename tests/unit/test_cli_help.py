"""The help of every command: complete, and there without loading torch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli import app

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "mlflow", "pyarrow", "numpy", "omegaconf")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups included."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(get_command(app)))


def test_the_commands_are_those_of_the_readme() -> None:
    assert set(COMMANDS) == {
        (),
        ("prepare",),
        ("prepare", "codecontests"),
        ("prepare", "columns"),
        ("prepare", "split"),
        ("prepare", "tests"),
        ("audit",),
        ("featurize",),
        ("inspect",),
        ("train-head",),
        ("sweep",),
        ("eval",),
        ("compare",),
        ("score",),
        ("serve",),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help, "no help"
    assert command.help.splitlines()[0].endswith((".", ":"))
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", "")]
    assert silent == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_exits_with_0_and_loads_nothing_heavy(path: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['critic', *{path}, '--help']\n"
        "import cli\n"
        "try:\n"
        "    cli.app()\n"
        "finally:\n"
        f"    print('loaded', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: critic" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["featurize"], "--split"),
        (["featurise", "--split", "train"], "featurise"),
        (["eval", "--splt", "valid"], "--splt"),
        (["train-head", "--pairs", "many"], "'--pairs'"),
    ],
)
def test_a_misused_command_says_what_is_wrong_and_exits_with_2(
    arguments: list[str], told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
