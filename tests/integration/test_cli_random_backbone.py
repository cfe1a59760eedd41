"""`critic eval --baseline random-backbone` as a user runs it, on the tiny project."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.console import UP_TO_DATE
from featurize.store import FeatureStore
from headtrain.head.checkpoint import load_head
from tests.support.command_line import Outcome, WarmCritic
from tests.support.tiny_project import options, write_project

BASELINE = ("eval", "--split", "valid", "--baseline", "random-backbone")


@pytest.fixture(scope="module")
def project(critic: WarmCritic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged head whose train features are those of planned pairs, of valid a few problems."""
    folder = write_project(tmp_path_factory.mktemp("base") / "project", num_train=12, num_valid=8)
    for command in (
        ("featurize", "--split", "train", "--pairs", "40"),
        ("featurize", "--split", "valid", "--limit-problems", "6"),
        ("train-head", "--pairs", "40"),
    ):
        outcome = critic.run(*command, *options(), folder=folder)
        assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def judged(critic: WarmCritic, project: Path) -> Outcome:
    return critic.run(*BASELINE, *options(), folder=project)


def features(project: Path, split: str) -> tuple[FeatureStore, FeatureStore]:
    """The pretrained and the random store of a split."""
    base = project / "storage/features/demo"
    (random,) = (base / "random-backbone").glob(f"{split}-*")
    return FeatureStore.open(base / split), FeatureStore.open(random)


def evaluation(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "storage/evaluation/demo/valid.json").read_text())
    return found


def test_the_random_backbone_is_a_judge_like_any_shortcut(judged: Outcome, project: Path) -> None:
    assert judged.code == 0, judged.err
    assert "random backbone" in judged.out
    found = evaluation(project)
    for split in ("train", "valid"):
        assert "random_backbone" in found["splits"][split]["judges"]
    judges = found["splits"]["valid"]["judges"]
    shortcuts = {
        name: judges[name]["accuracy_over_problems"]["estimate"]
        for name in judges
        if name != "head"
    }
    best = found["details"]["valid"]["verdict"]["best_shortcut"]
    assert shortcuts[best] == max(shortcuts.values())
    page = (project / "storage/evaluation/demo/valid.html").read_text()
    assert "random backbone" in page


@pytest.mark.parametrize("split", ["train", "valid"])
def test_its_features_are_of_the_same_samples_and_pairs(
    judged: Outcome, project: Path, split: str
) -> None:
    assert judged.code == 0
    pretrained, random = features(project, split)
    names = ["task_id", "problem_id", "is_correct", "output_tokens", "feature_row"]
    names += ["pairs"] if split == "train" else []
    assert random.samples.select(names).equals(pretrained.samples.select(names))
    assert random.tensor_names == pretrained.tensor_names
    assert random.manifest.recipe["weights"] == "random"
    for name in random.tensor_names:
        assert not random.read(name).equal(pretrained.read(name))


def test_its_head_has_the_settings_and_the_pairs_of_the_judged_one(
    judged: Outcome, project: Path
) -> None:
    assert judged.code == 0
    folder = project / "storage/checkpoints/critic/demo"
    (run,) = (folder / "random-backbone").iterdir()
    head, baseline = load_head(folder), load_head(run)
    assert baseline.record.pairs == head.record.pairs
    assert baseline.record.tensors == head.record.tensors
    assert baseline.record.likelihood == head.record.likelihood
    assert baseline.record.weights_checksum != head.record.weights_checksum
    assert baseline.record.selection["by"] == head.record.selection["by"]
    # and its scores are those the evaluation judged
    scores = baseline.score(features(project, "valid")[1])
    labels = features(project, "valid")[1].samples["is_correct"].to_numpy()
    problems = features(project, "valid")[1].samples["problem_id"].to_pylist()
    shares = []
    for problem in sorted(set(problems)):
        here = [place for place, name in enumerate(problems) if name == problem]
        right = [scores[place] for place in here if labels[place]]
        wrong = [scores[place] for place in here if not labels[place]]
        wins = [(r > w) + (r == w) / 2 for r in right for w in wrong]
        shares.append(sum(wins) / len(wins))
    judges = evaluation(project)["splits"]["valid"]["judges"]
    found = judges["random_backbone"]["accuracy_over_problems"]["estimate"]
    assert found == pytest.approx(sum(shares) / len(shares))


def test_a_second_call_finds_features_and_head_again(
    judged: Outcome, critic: WarmCritic, project: Path
) -> None:
    assert judged.code == 0
    storage = project / "storage"
    kept = [*storage.glob("features/demo/random-backbone/**/*"), *storage.glob("checkpoints/**/*")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.is_file()}
    (storage / "evaluation/demo/valid.inputs.json").unlink()  # else nothing is looked at
    again = critic.run(*BASELINE, *options(), folder=project)
    assert again.code == 0, again.err
    assert again.out.count(f"featurize: {UP_TO_DATE}") == 2
    assert f"head on a random backbone {UP_TO_DATE}" in again.out
    assert f"evaluation {UP_TO_DATE}" in again.out
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_several_processes_make_the_same_features(
    judged: Outcome, critic: WarmCritic, project: Path
) -> None:
    assert judged.code == 0
    before = evaluation(project)["splits"]["valid"]["judges"]["random_backbone"]
    (store,) = (project / "storage/features/demo/random-backbone").glob("valid-*")
    aside = store.rename(project / "aside")
    again = critic.run(*BASELINE, *options("featurize.workers=2"), folder=project)
    assert again.code == 0, again.err
    assert again.out.count("plan: featurize valid with a random backbone") == 1
    assert again.out.count("evaluation ") == 1  # by the process that started the others
    one, two = FeatureStore.open(aside), FeatureStore.open(store)
    assert one.samples["task_id"].equals(two.samples["task_id"])
    assert torch.allclose(one.read("mean.3").float(), two.read("mean.3").float(), atol=1e-3)
    found = evaluation(project)["splits"]["valid"]["judges"]["random_backbone"]
    assert found["auc"] == pytest.approx(before["auc"], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--baseline", "magic"), "there is random-backbone"),
        (("--baseline", "random-backbone", "--data", "x.jsonl"), "leave it or --data out"),
        (
            ("--baseline", "random-backbone", "--set", "dataset.validation=other.jsonl"),
            "37 of the 37 samples",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    judged: Outcome,
    critic: WarmCritic,
    project: Path,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    assert judged.code == 0
    (project / "other.jsonl").write_text((project / "train.jsonl").read_text())
    for old in (project / "storage/features/demo/random-backbone").glob("valid-*"):
        old.rename(project / f"aside-{len(list(project.iterdir()))}")
    outcome = critic.run("eval", "--split", "valid", *options(), *arguments, folder=project)
    assert outcome.code == 2
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
