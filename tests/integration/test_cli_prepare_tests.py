"""`critic prepare tests` says how programs are isolated, and refuses to run them unprotected."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from configs.console import UP_TO_DATE
from featurize.data.prepare.from_tests import sandbox
from featurize.data.prepare.from_tests.isolation import IsolationError
from featurize.data.prepare.from_tests.sandbox import Protection
from tests.integration.test_prepare_executed import PROBLEMS
from tests.support.row_files import write_rows


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    source = tmp_path / "mini.jsonl"
    write_rows(source, PROBLEMS)
    return ["prepare", "tests", "--source", str(source), "--out", str(tmp_path / "out")]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Protection]]:
    """The protections that can be set up."""
    protections: set[Protection] = set()

    def check(protection: Protection) -> None:
        if protection not in protections:
            raise IsolationError("not allowed in this container")

    monkeypatch.setattr(sandbox, "check_protection", check)
    sandbox.choose_protection.cache_clear()
    yield protections
    sandbox.choose_protection.cache_clear()


def test_without_protection_nothing_is_run(
    command: list[str], allowed: set[Protection], tmp_path: Path
):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "Landlock: not allowed in this container" in result.output.replace("\n", " ")
    assert "--unsafe" in result.output
    assert not (tmp_path / "out").exists()


def test_with_unsafe_programs_run_and_a_line_says_so(
    command: list[str], allowed: set[Protection], tmp_path: Path
):
    result = CliRunner().invoke(app, [*command, "--unsafe"])
    assert result.exit_code == 0, result.output
    assert "programs run WITHOUT protection (--unsafe)" in result.output
    assert (tmp_path / "out/summary.json").exists()
    again = CliRunner().invoke(app, command)
    assert UP_TO_DATE in again.output


def test_one_line_names_the_protection(command: list[str], allowed: set[Protection]):
    allowed.add(Protection.LANDLOCK)
    try:
        with sandbox.Sandbox(limits=sandbox.Limits(), protection=Protection.LANDLOCK):
            pass
    except IsolationError as error:
        pytest.skip(f"Landlock cannot be set up here: {error}")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if "programs run under" in line]
    assert line.startswith("prepare: programs run under Landlock and seccomp: no network,")
