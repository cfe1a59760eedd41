"""The help of every command: complete, and there without loading torch."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cli import app
from configs.options import EXAMPLES
from tests.support.processes import REPOSITORY, output_of, run_python

START = "import cli; cli.app(prog_name='critic')"
HEAVY = ("torch", "transformers", "mlflow", "pyarrow", "numpy", "omegaconf")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups included."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(get_command(app)))


def test_every_command_is_in_the_documents() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assert [path for path in COMMANDS if not re.search(rf"\b{' '.join(path)}\b", text)] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help, "no help"
    assert command.help.splitlines()[0].endswith((".", ":"))
    assert command.get_short_help_str(45) == command.help.splitlines()[0]  # of the site
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", "")]
    assert silent == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_shows_every_example_as_it_is_typed(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    for example in EXAMPLES[name]:
        assert f"$ {example}" in done.output


def test_every_example_is_of_a_command() -> None:
    assert set(EXAMPLES) <= {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    words = {"_TYPER_COMPLETE_ARGS": "critic tr", "COMP_WORDS": "critic tr", "COMP_CWORD": "1"}
    words |= {
        "_CRITIC_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = run_python("-c", START, **words)
    assert "train-head" in done.stdout
    assert "featurize" not in done.stdout


def test_completion_is_installed_for_the_shell(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run_python("-c", START, "--install-completion", "bash", **variables)
    assert done.returncode == 0, done.stderr
    [script] = tmp_path.rglob("critic.sh")
    assert "_CRITIC_COMPLETE" in script.read_text()


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[int, str, str, list[str]]]:
    """The help of every command from one interpreter, and what it had loaded by then."""
    code = f"""
import contextlib, io, json, os, sys
os.environ["COLUMNS"] = "80"
import cli

found = {{}}
for path in {[*COMMANDS]}:
    sys.argv = ["critic", *path, "--help"]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.app()
        except SystemExit as ended:
            code = ended.code
    loaded = [name for name in {HEAVY} if name in sys.modules]
    found[" ".join(path)] = [code, out.getvalue(), err.getvalue(), loaded]
print(json.dumps(found))
"""
    found: dict[str, tuple[int, str, str, list[str]]] = json.loads(output_of(code))
    return found


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_exits_with_0_fits_80_columns_and_loads_nothing_heavy(
    path: tuple[str, ...], pages: dict[str, tuple[int, str, str, list[str]]]
) -> None:
    code, out, err, loaded = pages[" ".join(path)]
    assert "Usage: " + " ".join(["critic", *path]) in out
    assert (code, err, loaded) == (0, "", [])
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert "<bool>" not in out  # behind a flag, which takes no value


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["featurize"], "--split"),
        (["featurise", "--split", "train"], "featurise"),
        (["eval", "--splt", "valid"], "--splt"),
        (["train-head", "--pairs", "many"], "'--pairs'"),
        (["export", "--out", "x", "--register", "judge"], "--to mlflow"),
        (["export", "--out", "x", "--to", "mlflow", "--custom"], "--custom"),
    ],
)
def test_a_misused_command_says_what_is_wrong_and_exits_with_2(
    arguments: list[str], told: str
) -> None:
    done = run_python("-m", "cli", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
