"""`critic sweep` as a user runs it, on features that are there already."""

import json
import os
import re
import sqlite3
from pathlib import Path

import pytest

from configs.console import UP_TO_DATE
from featurize.io.files import sole_writer
from tests.support.command_line import Outcome, WarmCritic
from tests.support.synthetic_stores import write_store
from tests.support.unit_features import read_tree

OPTIONS = (
    *("--config", "configs/demo.yaml"),
    *("--set", "runtime.device=cpu"),
    *("--set", "training.n_epochs=2"),
    *("--set", "evaluation.bootstrap_rounds=50"),
    *("--set", "evaluation.train_holdout=0.2"),
)

GRID = (
    *("--grid", "features=mean.1,mean.2,mean.1+mean.2"),
    *("--grid", "training.dropout=0.1,0.3"),
    *("--seeds", "2"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for split, seed in (("train", 1), ("valid", 2)):
        write_store(
            folder / "storage/features/demo" / split,
            tensors={"mean.1": 16, "mean.2": 16},
            fingerprint=split,
            seed=seed,
            likelihood=True,
        )
    return folder


@pytest.fixture(scope="module")
def swept(critic: WarmCritic, project: Path) -> Outcome:
    return critic.run("sweep", *GRID, *OPTIONS, folder=project)


def test_a_sweep_ends_with_a_table_a_figure_and_an_ensemble(swept: Outcome, project: Path) -> None:
    assert swept.code == 0, swept.err
    assert "12 heads" in swept.out
    assert re.search(r"features +┃ dropout", swept.out)
    assert re.search(r"mean\.1\+mean\.2 +│ 0\.1 ", swept.out)
    folder = project / "storage/checkpoints/critic/demo/sweep"
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert [*(project / "storage").rglob("matplotlib/fontlist*.json")], "not in the home folder"
    found = json.loads((folder / "sweep.json").read_text())
    assert len(found["points"]) == 6
    record = json.loads((folder / "winner/head.json").read_text())
    assert record["num_members"] == 2
    winner = found["points"][0]["varied"]
    assert record["config"]["training"]["features"] == winner["features"].split("+")
    assert str(record["config"]["training"]["dropout"]) == winner["training.dropout"]


def test_every_head_is_a_child_run_of_the_sweep(swept: Outcome, project: Path) -> None:
    assert swept.code == 0
    with sqlite3.connect(project / "storage/mlruns/mlflow.db") as database:
        parents = database.execute(
            "select value, count(*) from tags where key = 'mlflow.parentRunId' group by value"
        ).fetchall()
        statuses = set(database.execute("select status from runs").fetchall())
    assert [count for _, count in parents] == [12]
    assert statuses == {("FINISHED",)}


def test_the_winner_is_judged_like_any_head(
    swept: Outcome, critic: WarmCritic, project: Path
) -> None:
    assert swept.code == 0
    head = "storage/checkpoints/critic/demo/sweep/winner"
    outcome = critic.run("eval", "--split", "valid", "--head", head, *OPTIONS, folder=project)
    assert outcome.code == 0, outcome.err
    assert "accuracy over pairs" in outcome.out
    results = project / "storage/evaluation/demo/sweep-winner"
    assert (results / "valid/sweep.png").read_bytes().startswith(b"\x89PNG")
    page = (results / "valid.html").read_text()
    assert all(tensors in page for tensors in ("mean.1", "mean.2", "mean.1 + mean.2"))


def test_a_rerun_of_a_finished_sweep_does_nothing_over_again_and_says_so(
    swept: Outcome, critic: WarmCritic, project: Path
) -> None:
    storage = project / "storage"
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*") if path.is_file()}
    again = critic.run("sweep", *GRID, *OPTIONS, folder=project)
    assert again.code == 0, again.err
    assert f"sweep: {UP_TO_DATE}" in again.out
    tables = [outcome.out[outcome.out.index("┏") :] for outcome in (swept, again)]
    assert tables[0] == tables[1]
    after = {path: path.stat().st_mtime_ns for path in storage.rglob("*") if path.is_file()}
    assert after == before


def test_a_sweep_that_another_one_keeps_out_is_refused_and_leaves_what_is_there(
    swept: Outcome, critic: WarmCritic, project: Path
) -> None:
    assert swept.code == 0, swept.err
    folder = project / "storage/checkpoints/critic/demo/sweep"
    before = read_tree(folder / "winner")
    with sole_writer(folder):
        outcome = critic.run("sweep", *GRID, *OPTIONS, "--overwrite", folder=project)
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]  # the one before says that it waits
    assert "demo/sweep: " in line
    assert f"(process {os.getpid()}" in line
    assert read_tree(folder / "winner") == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--grid", "training.droput=0.1"), "droput"),
        (("--grid", "training.dropout=0.1,2"), "less than 1"),
        (("--grid", "features=mean.7"), "'mean.7'"),
        (("--grid", "runtime.seed=1,2"), "give that with --set"),
        (("--set", "dataset.validation=null"), "name a dataset.validation"),
        (("--other-backbone", "storage/features/demo"), "needs --curve"),
        (("--curve", "--other-backbone", "nowhere"), "nowhere/train: "),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(
    critic: WarmCritic, project: Path, arguments: tuple[str, str], reason: str
) -> None:
    outcome = critic.run("sweep", *OPTIONS, *arguments, folder=project)
    assert outcome.code == 2
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_curve_says_what_to_buy_and_is_kept_beside_the_sweep(
    critic: WarmCritic, project: Path
) -> None:
    options = (*OPTIONS, "--set", "checkpoint.save_dir=storage/checkpoints/curve")
    arguments = ("sweep", "--grid", "features=mean.1", "--curve", *options)
    first = critic.run(*arguments, folder=project)
    assert first.code == 0, first.err
    assert "larger backbone" in " ".join(first.out.split())
    found = next(project.glob("storage/checkpoints/curve/**/curve.json"))
    assert [curve["axis"] for curve in json.loads(found.read_text())["curves"]] == [
        "problems",
        "candidates a problem",
    ]
    assert found.with_name("curve.png").exists()
    assert found.with_name("sweep.html").read_text().count("<svg") == 2
    written = found.stat().st_mtime_ns
    assert critic.run(*arguments, folder=project).code == 0
    assert found.stat().st_mtime_ns == written
    found.write_text('{"seeds": 3}')
    outcome = critic.run(*arguments, folder=project)
    assert outcome.code == 2
    assert re.fullmatch(r"error: \S+curve\.json: .* delete it and rerun\n", outcome.err)
