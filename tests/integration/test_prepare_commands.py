"""The commands that make datasets of others, as a user calls them: what they say and leave."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import configs.console
import configs.project
from cli import app
from configs.console import UP_TO_DATE
from tests.support.contests import CPP, PYTHON3, problem, solutions, write_problems
from tests.support.row_files import read_rows, write_rows
from tests.support.tiny_models import write_tiny_llama


@pytest.fixture
def critic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in tmp_path, within this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    configs.console.console.cache_clear()  # another test's console has its own width
    # It would bind the handler of a logger to a stream that is closed after the command.
    monkeypatch.setattr(configs.project, "set_up_logging", lambda *_: None)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", "configs/demo.yaml"])

    return run


def read(path: str) -> list[dict[str, Any]]:
    return read_rows(Path(path))


def words(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃\n").replace("┃", "│").split("│")]


def test_codecontests_is_prepared_with_an_account_of_what_was_left_out(critic: Any):
    odd = problem("odd", incorrect_solutions=solutions((CPP, "x")))
    write_problems(Path("in"), "train", [problem("a"), problem("b"), odd])
    write_problems(Path("in"), "valid", [problem("c")])
    first = critic("prepare", "codecontests", "--source", "in", "--out", "out")
    assert first.exit_code == 0, first.output
    table = [words(line) for line in first.stdout.splitlines() if "│" in line or "┃" in line]
    assert [row if num < 4 else row[1:] for num, row in enumerate(table)] == [
        ["", "train", "valid"],
        ["problems", "2", "1"],
        ["correct", "2", "1"],
        ["incorrect", "2", "1"],
        ["1", "0"],
        ["2", "0"],
    ]
    assert len(read("out/train.jsonl")) == 4
    again = critic("prepare", "codecontests", "--source", "in", "--out", "out")
    assert UP_TO_DATE in again.stdout


def test_tokens_are_counted_by_the_backbone_of_the_config(critic: Any):
    write_tiny_llama(Path("model"))
    long = solutions((PYTHON3, "short"), (PYTHON3, "ä" * 5000))
    write_problems(Path("in"), "train", [problem("a", solutions=long)])
    settings = ["models.policy.path=model", "prepare.codecontests.max_tokens=1000"]
    done = critic(
        "prepare", "codecontests", "--source", "in/*.parquet",
        *(part for setting in settings for part in ("--set", setting)),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    # Where the config looks for datasets.
    rows = read("storage/datasets/codecontests/processed/train.jsonl")
    assert {row["output"] for row in rows} == {"short", "wrong a"}
    assert re.search(r"1,000 tokens .*│ +1\b", done.stdout)


def test_columns_are_mapped_and_their_values_shown(critic: Any):
    rows = [{"q": "Add.", "code": code, "verdict": code} for code in ("AC", "OK", "WA", "WA")]
    write_rows(Path("in.jsonl"), rows)
    done = critic(
        "prepare", "columns", "--source", "in.jsonl", "--out", "out.jsonl",
        "--map", "instruction=q", "--map", "output=code", "--map", "is_correct=verdict",
        "--correct-values", "AC,passed", "--correct-values", "OK",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [row["is_correct"] for row in read("out.jsonl")] == [True, True, False, False]
    assert "│ 'WA' 2" in done.stdout


def test_a_dataset_is_split_by_problem(critic: Any):
    rows = [
        {"instruction": f"Task {number}", "output": f"{label}", "is_correct": label}
        for number in range(20)
        for label in (True, False)
    ]
    write_rows(Path("in.jsonl"), rows)
    done = critic(
        "prepare", "split", "--source", "in.jsonl", "--out", "out",
        "--valid", "0.2", "--test", "0.1", "--seed", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    sizes = {name: len(read(f"out/{name}.jsonl")) for name in ("train", "valid", "test")}
    assert sizes == {"train": 28, "valid": 8, "test": 4}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["codecontests", "--source", "nowhere"], "'nowhere'"),
        (["codecontests", "--source", ""], "''"),  # not every file of the machine
        (
            ["columns", "--source", "in.jsonl", "--out", "o.jsonl", "--correct-values", ","],
            "',': names no value",
        ),
        (["columns", "--source", "in.jsonl", "--out", "o.jsonl"], "in.jsonl:1: 'instruction' is"),
        (["split", "--source", "in.jsonl", "--out", "o", "--valid", "1.5"], "--valid is 1.5"),
        (
            ["split", "--source", "in.jsonl", "--out", "o", "--set", "prepare.similarity=2"],
            "prepare.similarity",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(critic: Any, arguments: list[str], told: str):
    Path("in.jsonl").write_text('{"code": 1}\n')
    failed = critic("prepare", *arguments)
    assert failed.exit_code == 2, failed.output
    lines = failed.stderr.splitlines()
    assert len(lines) == 1, failed.stderr
    assert lines[0].startswith("error: ")
    assert told in lines[0]
