"""Training and evaluation with `wandb.project` set: a double of wandb gets what MLflow gets."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.console import UP_TO_DATE
from tests.support.command_line import REPOSITORY, WarmCritic
from tests.support.synthetic_stores import write_store

OPTIONS = (
    *("--config", "configs/demo.yaml"),
    *("--set", "runtime.device=cpu"),
    *("--set", "training.features=[mean.1]"),
    *("--set", "training.n_epochs=2"),
    *("--set", "evaluation.bootstrap_rounds=50"),
    *("--set", "wandb.project=mine"),
)
COMMANDS = (("train-head",), ("eval", "--split", "valid"))


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCritic]:
    home = tmp_path_factory.mktemp("home")
    path = f"{REPOSITORY}:{REPOSITORY / 'tests/support/fake_modules'}"
    warm = WarmCritic(home, {"PYTHONPATH": path, "FAKE_WANDB": str(home / "calls.jsonl")})
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def project(critic: WarmCritic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a head was trained and evaluated."""
    folder = tmp_path_factory.mktemp("project")
    for split, seed in (("train", 1), ("valid", 2)):
        write_store(
            folder / "storage/features/demo" / split,
            tensors={"mean.1": 16},
            fingerprint=split,
            seed=seed,
            likelihood=True,
        )
    for command in COMMANDS:
        outcome = critic.run(*command, *OPTIONS, folder=folder)
        assert outcome.code == 0, outcome.err
    return folder


def calls_of(critic: WarmCritic) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (critic.home / "calls.jsonl").read_text().splitlines()]


def test_every_number_that_mlflow_gets_arrives_under_its_step(
    critic: WarmCritic, project: Path
) -> None:
    wanted, found = defaultdict(dict), defaultdict(dict)
    with sqlite3.connect(project / "storage/mlruns/mlflow.db") as database:
        for name, step, value in database.execute("select key, step, value from metrics"):
            wanted[name][step] = value
    for call in calls_of(critic):
        metrics = dict(call.get("metrics", {}))
        step = metrics.pop("optimizer_step", None)
        for name, value in metrics.items():
            found[name][step] = value
    assert found == wanted
    assert {"train/loss", "valid/accuracy_over_problems", "eval/valid/head/auc"} <= set(found)


def test_settings_and_files_arrive_and_every_run_ends_well(
    critic: WarmCritic, project: Path
) -> None:
    calls = calls_of(critic)
    opened = [call for call in calls if call["call"] == "init"]
    assert [one["project"] for one in opened] == ["mine", "mine"]
    assert len({one["run"] for one in opened}) == 1
    assert opened[0]["config"]["training"]["features"] == ["mean.1"]
    assert [call["exit_code"] for call in calls if call["call"] == "finish"] == [0, 0]
    saved = {call["file"]: call["size"] for call in calls if call["call"] == "save"}
    head = project / "storage/checkpoints/critic/demo/best/head.safetensors"
    assert saved["heads/best/head.safetensors"] == head.stat().st_size
    assert {"heads/final/head.json", "valid.json", "valid.html"} <= set(saved)


def test_what_is_up_to_date_is_not_logged_again(critic: WarmCritic, project: Path) -> None:
    before = calls_of(critic)
    for command in COMMANDS:
        outcome = critic.run(*command, *OPTIONS, folder=project)
        assert outcome.code == 0, outcome.err
        assert UP_TO_DATE in outcome.out
    assert calls_of(critic) == before
