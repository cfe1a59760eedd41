"""The four commands from labelled programs to a judged head, as a user runs them."""

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from featurize.data.prompt import render_prompt
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.store import FeatureStore
from featurize.store.samples import LIKELIHOOD_COLUMNS
from headtrain.head.checkpoint import load_head
from headtrain.metrics.bootstrap import Interval
from tests.support.command_line import Outcome, WarmCritic, run_critic
from tests.support.plain_features import load_plain, plain_features
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

COMMANDS = {
    "featurize train": ("featurize", "--split", "train"),
    "featurize valid": ("featurize", "--split", "valid"),
    "train-head": ("train-head", "--pairs", "200"),
    "eval": ("eval", "--split", "valid"),
}
PICTURES = (
    "best-of-n",
    "length-difference",
    "margins-train",
    "margins-valid",
    "problems",
    "reliability",
    "shortcuts",
    "training",
)
TENSORS = ["last.1", "last.3", "mean.1", "mean.3"]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A finished run of all commands."""

    folder: Path
    home: Path
    outcomes: Mapping[str, Outcome]

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def store(self, split: str) -> FeatureStore:
        return FeatureStore.open(self.storage / "features" / "demo" / split)

    def evaluation(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.storage / "evaluation/demo/valid.json").read_text()
        )
        return found


def arguments(command: str) -> list[str]:
    # INFO, so that whatever a user may see on stderr is there to be judged.
    return [*COMMANDS[command], *options("logging.level=INFO")]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    base = tmp_path_factory.mktemp("pipeline")
    pipeline = Pipeline(folder=base / "project", home=base / "home", outcomes={})
    write_project(pipeline.folder)
    outcomes = {}
    for command in COMMANDS:
        outcomes[command] = run_critic(
            *arguments(command), folder=pipeline.folder, home=pipeline.home
        )
        assert outcomes[command].code == 0, outcomes[command].err
    return Pipeline(folder=pipeline.folder, home=pipeline.home, outcomes=outcomes)


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file."""
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in files.items()}


def row_of(table: str, name: str) -> list[str]:
    """The cells of the first table row that begins with `name`."""
    rows = [line.strip("│ ").split("│") for line in table.splitlines() if line.startswith("│")]
    return next([cell.strip() for cell in row] for row in rows if row[0].strip() == name)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_but_progress_is_printed_on_stderr(pipeline: Pipeline, command: str) -> None:
    err = pipeline.outcomes[command].err
    assert not re.search(r"warning|traceback|error", err, re.IGNORECASE), err
    assert all(line.startswith("INFO ") for line in err.splitlines()), err


def test_everything_is_written_below_the_storage_root(pipeline: Pipeline) -> None:
    assert {path.name for path in pipeline.folder.iterdir()} == {
        "model",
        "train.jsonl",
        "valid.jsonl",
        "storage",
    }
    assert {path.name for path in pipeline.storage.iterdir()} == {
        "cache",
        "features",
        "checkpoints",
        "evaluation",
        "mlruns",
    }
    assert [path for path in pipeline.home.rglob("*") if path.is_file()] == []
    assert [path for path in pipeline.folder.rglob("*.partial")] == []


@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_sample_is_in_the_store_once(pipeline: Pipeline, split: str) -> None:
    rows = make_rows(split, 30 if split == "train" else 12)
    store = pipeline.store(split)
    found = store.samples.select(["task_id", "problem_id", "is_correct", "language"]).to_pylist()
    expected = [
        {name: row[name] for name in ("task_id", "problem_id", "is_correct")}
        | {"language": "python"}
        for row in rows
    ]
    assert sorted(found, key=lambda row: row["task_id"]) == sorted(
        expected, key=lambda row: row["task_id"]
    )
    assert store.manifest.counts["read"] == len(rows)
    assert store.manifest.counts["duplicates"] >= 1
    shared = dict(
        zip(
            store.samples["task_id"].to_pylist(),
            store.samples["feature_row"].to_pylist(),
            strict=True,
        )
    )
    assert shared[f"{split}-again"] == shared[f"{split}-0-0"]


def test_features_are_those_of_the_plain_forward_row_by_row(pipeline: Pipeline) -> None:
    model = load_plain(pipeline.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(pipeline.folder / "model")
    store = pipeline.store("valid")
    assert store.tensor_names == TENSORS
    places = {name: place for place, name in enumerate(store.samples["task_id"].to_pylist())}
    spec = FeatureSpec(layers=(1, 3), poolings=("mean", "last"), likelihood=True)
    for row in make_rows("valid", 12):
        prompt = tokenizer(render_prompt(row["instruction"]))["input_ids"]
        output = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        group = PromptGroup(prompt=tuple(prompt), outputs=(tuple(output),), rows=(0,))
        expected = plain_features(model, [group], spec)
        sample = store.samples.slice(places[row["task_id"]], 1).to_pylist()[0]
        assert (sample["prompt_tokens"], sample["output_tokens"]) == (len(prompt), len(output))
        for name in TENSORS:
            found = store.gather(name, torch.tensor([sample["feature_row"]]))
            torch.testing.assert_close(found, expected.tensors[name], rtol=1e-4, atol=1e-4)
        likelihood = torch.tensor([[sample[name] for name in LIKELIHOOD_COLUMNS]])
        torch.testing.assert_close(likelihood, expected.likelihood, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("command", ["featurize train", "featurize valid", "train-head"])
def test_a_rerun_is_up_to_date_and_touches_nothing(
    pipeline: Pipeline, critic: WarmCritic, command: str
) -> None:
    before = states(pipeline.folder)
    outcome = critic.run(*arguments(command), folder=pipeline.folder)
    assert outcome.code == 0
    assert f"{command.split()[0]}: up to date, nothing done" in outcome.out
    assert "plan:" not in outcome.out
    assert outcome.err == ""
    assert states(pipeline.folder) == before


def test_a_merge_run_again_is_up_to_date(
    pipeline: Pipeline, critic: WarmCritic, tmp_path: Path
) -> None:
    stores = [str(pipeline.storage / "features" / "demo" / split) for split in ("train", "valid")]
    command = ("merge-features", *stores, "--split", "train")
    changes = options(f"storage.features_dir={tmp_path}")
    first, again = (critic.run(*command, *changes, folder=pipeline.folder) for _ in range(2))
    assert (first.code, again.code) == (0, 0)
    assert row_of(first.out, "units resumed") == ["units resumed", "0"]
    assert again.out.startswith("merge-features: up to date, nothing done")


def test_the_verdict_comes_first_and_lines_fit_a_narrow_terminal(pipeline: Pipeline) -> None:
    lines = pipeline.outcomes["eval"].out.splitlines()
    assert lines[0].startswith("eval: valid split")
    assert re.search(r"head .*\d\.\d%", lines[1])
    tables = [line for line in lines if line.startswith(("│", "┃", "┏", "└"))]
    assert max(map(len, tables)) <= 80
    for name, judge in pipeline.evaluation()["splits"]["valid"]["judges"].items():
        accuracies = (judge[key]["estimate"] for key in ("accuracy_over_pairs", "auc"))
        assert set(row_of("\n".join(lines), name.replace("_", " "))) >= {
            f"{accuracy:.3f}" for accuracy in accuracies
        }


def test_a_requirement_that_fails_makes_the_exit_code_1(
    pipeline: Pipeline, critic: WarmCritic
) -> None:
    holds = critic.run(*arguments("eval"), "--require", "auc>0.1", folder=pipeline.folder)
    assert (holds.code, "all 1 requirements hold" in holds.out) == (0, True)
    fails = critic.run(*arguments("eval"), "--require", "auc>0.1,auc>1", folder=pipeline.folder)
    assert (fails.code, fails.out.count("required, but fails")) == (1, 1)
    wrong = critic.run(*arguments("eval"), "--require", "aux>1", folder=pipeline.folder)
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "'aux'" in wrong.err


def test_the_printed_numbers_are_those_of_the_json(pipeline: Pipeline, critic: WarmCritic) -> None:
    detailed = critic.run(*arguments("eval"), "--details", folder=pipeline.folder)
    out, evaluation = detailed.out, pipeline.evaluation()
    for name, judge in evaluation["splits"]["valid"]["judges"].items():
        _, over_pairs, over_problems, auc = row_of(out, name.replace("_", " "))
        assert over_pairs == str(Interval(**judge["accuracy_over_pairs"]))
        assert over_problems == str(Interval(**judge["accuracy_over_problems"]))
        assert auc == f"{judge['auc']['estimate']:.3f}"
    for name in ("mean_correct", "mean_incorrect"):
        values = [evaluation["splits"][split]["values"][name] for split in ("train", "valid")]
        assert row_of(out, name.replace("_", " of "))[1:3] == [
            str(Interval(**value)) for value in values
        ]
    assert str(Path("storage/evaluation/demo/valid.json")) in out


def test_the_accuracy_is_that_of_the_heads_values(pipeline: Pipeline) -> None:
    store = pipeline.store("valid")
    values = load_head(pipeline.storage / "checkpoints/critic/demo/best").score(store)
    columns = {
        name: np.array(store.samples[name].to_pylist()) for name in ("problem_id", "is_correct")
    }
    wins, num_pairs = 0.0, 0
    for correct in np.flatnonzero(columns["is_correct"]):
        rivals = (columns["problem_id"] == columns["problem_id"][correct]) & ~columns["is_correct"]
        wins += float((np.sign(values[correct] - values[rivals]) / 2 + 0.5).sum())
        num_pairs += rivals.sum()
    judges = pipeline.evaluation()["splits"]["valid"]["judges"]
    assert judges["head"]["accuracy_over_pairs"]["estimate"] == pytest.approx(wins / num_pairs)
    # Correctness shows in which token comes more often, not in the length.
    assert wins / num_pairs > 0.85
    assert judges["longer_is_correct"]["accuracy_over_pairs"]["estimate"] < 0.8


def test_an_evaluation_can_be_repeated_to_the_byte(pipeline: Pipeline, critic: WarmCritic) -> None:
    folder = pipeline.storage / "evaluation/demo"
    paths = [folder / "valid.json", folder / "valid.html"]
    paths += [folder / "valid" / f"{name}.png" for name in PICTURES]
    paths += [folder / "valid/problems-1.html"]
    before = [path.read_bytes() for path in paths]
    (folder / "valid.inputs.json").unlink()  # otherwise it is not evaluated again
    outcome = critic.run(*arguments("eval"), folder=pipeline.folder)
    assert outcome.code == 0, outcome.err
    assert [path.read_bytes() for path in paths] == before


def test_the_texts_of_the_dataset_are_judged_and_shown(pipeline: Pipeline) -> None:
    evaluation = pipeline.evaluation()
    judges = evaluation["splits"]["valid"]["judges"]
    # `return !` against `return ?` is what n-grams are made for.
    assert judges["bag_of_ngrams"]["accuracy_over_pairs"]["estimate"] == 1.0
    assert "ngrams" in pipeline.outcomes["eval"].out
    page = (pipeline.storage / "evaluation/demo/valid.html").read_text()
    assert "demo on valid" in page


def test_one_problem_is_shown_with_its_ranking_and_how_to_serve_the_head(
    pipeline: Pipeline, critic: WarmCritic
) -> None:
    outcome = critic.run("show", *arguments("eval")[3:], folder=pipeline.folder)
    assert outcome.code == 0, outcome.err
    said = outcome.out
    assert "the problem with the median accuracy" in said
    table = [line for line in said.splitlines() if re.match(r"│ +\d+ │", line)]
    values = [float(line.split("│")[2]) for line in table]
    assert values == sorted(values, reverse=True)
    labels = {line.split("│")[4].strip() for line in table}
    assert labels == {"correct", "incorrect"}
    assert f"rank {len(table)}, " in said
    assert "critic serve --head" in said


def test_two_heads_are_compared_with_the_code_they_differ_on(
    pipeline: Pipeline, critic: WarmCritic
) -> None:
    heads = [str(Path("storage/checkpoints/critic/demo") / name) for name in ("best", "final")]
    command = ["compare", *heads, "--split", "valid"]
    outcome = critic.run(*command, *arguments("eval")[3:], folder=pipeline.folder)
    assert outcome.code == 0, outcome.err
    path = pipeline.storage / "evaluation/demo/compare-valid-best+final.json"
    found = json.loads(path.read_text())
    judges = pipeline.evaluation()["splits"]["valid"]["judges"]
    accuracy = found["heads"]["A"]["accuracy_over_pairs"]["estimate"]
    assert accuracy == pytest.approx(judges["head"]["accuracy_over_pairs"]["estimate"])
    shown = row_of(outcome.out, "A - B")[1]
    assert shown == str(Interval(**found["difference"]["accuracy_over_pairs"]))
    told = outcome.out.count("\ncorrect:\n")
    assert told == len(found["wins"]) + len(found["losses"])
    missing = critic.run("compare", "nowhere", heads[0], *options(), folder=pipeline.folder)
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "nowhere: " in missing.err


def test_several_heads_are_put_on_one_page(pipeline: Pipeline, critic: WarmCritic) -> None:
    heads = [str(Path("storage/checkpoints/critic/demo") / name) for name in ("best", "final")]
    outcome = critic.run("report", *heads, *arguments("eval")[3:], folder=pipeline.folder)
    assert outcome.code == 0, outcome.err
    path = pipeline.storage / "evaluation/demo/report-valid-best+final.html"
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["heads_compared"] == heads
    for name in "AB":
        accuracy = found["heads"][name]["accuracy_over_problems"]
        assert row_of(outcome.out, name)[1] == str(Interval(**accuracy))
    assert path.read_text().count("<tr") > 10


def test_the_run_is_tracked_with_its_settings_metrics_and_files(pipeline: Pipeline) -> None:
    with sqlite3.connect(pipeline.storage / "mlruns/mlflow.db") as database:
        runs = database.execute("select run_uuid, status, artifact_uri from runs").fetchall()
        assert len(runs) == 1  # the evaluation went to the run of the training
        run_id, status, artifact_uri = runs[0]
        parameters = dict(database.execute("select key, value from params").fetchall())
        metrics = dict(database.execute("select key, value from latest_metrics").fetchall())
    assert status == "FINISHED"
    assert parameters["data_sampling.pairwise.n_pairs"] == "200"
    assert parameters["training.dropout"] == "0.3"
    evaluation = pipeline.evaluation()
    head = evaluation["splits"]["valid"]["judges"]["head"]
    expected = head["accuracy_over_pairs"]["estimate"]
    assert metrics["eval/valid/head/accuracy_over_pairs"] == pytest.approx(expected)
    assert {"train/loss", "train/accuracy", "valid/accuracy_over_problems"} <= set(metrics)
    assert 0.5 < metrics["train_subset/accuracy_over_problems"] <= 1

    artifacts = Path(artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(pipeline.storage)
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "evaluation/valid.html",
        "evaluation/valid.json",
        "evaluation/valid/problems-1.html",
        *(f"evaluation/valid/{name}.png" for name in PICTURES),
        "heads/best/head.json",
        "heads/best/head.safetensors",
        "heads/final/head.json",
        "heads/final/head.safetensors",
    }
    config = json.loads((artifacts / "config.json").read_text())
    assert config["data_sampling"]["pairwise"]["n_pairs"] == 200
    assert config["checkpoint"]["save_dir"] == "storage/checkpoints/critic/demo"
    saved = json.loads((pipeline.storage / "checkpoints/critic/demo/best/head.json").read_text())
    assert saved["tracking_run_id"] == run_id
    assert saved["recipe_fingerprint"] == pipeline.store("valid").manifest.recipe_fingerprint
