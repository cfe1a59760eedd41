"""Preference and unpaired rows of the TRL library, named as a dataset, through all commands."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.console import UP_TO_DATE
from tests.support.command_line import WarmCritic
from tests.support.row_files import write_rows
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

COMMANDS = (
    ("audit", "--split", "train", "--against", "valid", "--strict"),
    ("featurize", "--split", "train"),
    ("featurize", "--split", "valid"),
    ("train-head", "--pairs", "200"),
    ("eval", "--split", "valid"),
)


def plain_rows(split: str, num_problems: int) -> list[dict[str, Any]]:
    """Rows without ids, which TRL does not know."""
    kept = ("instruction", "output", "is_correct", "metadata")
    return [{key: row[key] for key in kept} for row in make_rows(split, num_problems)[:-1]]


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def to_preferences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts, messages with a prompt and messages that begin with the prompt, in turn."""
    found = []
    correct, incorrect = (
        [row for row in rows if row["is_correct"] is is_it] for is_it in (True, False)
    )
    for number, (good, bad) in enumerate(zip(correct, incorrect, strict=True)):
        assert good["instruction"] == bad["instruction"]
        user = [message("user", good["instruction"])]
        row: dict[str, Any] = {"chosen": good["output"], "rejected": bad["output"]}
        if number % 3 == 0:
            row["prompt"] = good["instruction"]
        else:
            before = user if number % 3 == 1 else []
            row |= {side: [*before, message("assistant", row[side])] for side in row}
            row |= {} if before else {"prompt": user}
        found.append(row | {"metadata": good["metadata"]})
    return found


def to_unpaired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [message("user", row["instruction"])],
            "completion": [message("assistant", row["output"])],
            "label": row["is_correct"],
            "metadata": row["metadata"],
        }
        for row in rows
    ]


def test_trl_rows_are_audited_trained_on_and_evaluated_as_the_equal_plain_rows(
    critic: WarmCritic, tmp_path: Path
) -> None:
    folder = write_project(tmp_path / "project")
    train, valid = plain_rows("train", 30), plain_rows("valid", 12)
    write_rows(folder / "train.jsonl", to_preferences(train))
    write_rows(folder / "valid.jsonl", to_unpaired(valid))
    told = []
    for command in COMMANDS:
        outcome = critic.run(*command, *options(), folder=folder)
        assert outcome.code == 0, outcome.err
        told.append(outcome.out)
    report = json.loads((folder / "storage/evaluation/demo/valid.json").read_text())
    assert report["splits"]["train"]["counts"]["num_samples"] == len(train)
    judges = report["splits"]["valid"]["judges"]
    assert judges["head"]["accuracy_over_problems"]["estimate"] > 0.85
    audit = folder / "storage/audit/demo/train/audit.json"
    found = json.loads(audit.read_text())
    assert found["difficulties"]

    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "valid.jsonl", valid)
    audit.unlink()
    assert critic.run(*COMMANDS[0], *options(), folder=folder).out == told[0]
    assert json.loads(audit.read_text()) == found
    for command in COMMANDS[1:]:
        outcome = critic.run(*command, *options(), folder=folder)
        assert UP_TO_DATE in outcome.out, outcome.err
