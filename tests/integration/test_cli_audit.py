"""`critic audit`, and `critic featurize --pairs`, as a user runs them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurize.store import FeatureStore
from headtrain.head.checkpoint import load_head
from tests.support.command_line import Outcome, WarmCritic
from tests.support.row_files import write_rows
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

PAIRS = 20


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCritic]:
    """One whose home no other file's commands have written to."""
    critic = WarmCritic(tmp_path_factory.mktemp("home"))
    yield critic
    critic.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose splits share a problem by id and another by its words."""
    folder = write_project(tmp_path_factory.mktemp("project"), num_train=12, num_valid=6)
    train, valid = make_rows("train", 12), make_rows("valid", 6)
    words = "Read the numbers of a line, add up those that are odd and print the sum of them."
    for rows, problem, text in ((train, "train-2", words), (valid, "valid-3", words.upper())):
        for row in rows:
            if row["problem_id"] == problem:
                row["instruction"] = text
    for row in valid:
        row["problem_id"] = row["problem_id"].replace("valid-1", "train-1")
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "valid.jsonl", valid)
    return folder


@pytest.fixture(scope="module")
def audited(critic: WarmCritic, folder: Path) -> Outcome:
    command = ("audit", "--split", "train", "--against", "valid", "--tokens", "--strict")
    return critic.run(*command, *options(), folder=folder)


def read_audit(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "storage/audit/demo/train/audit.json").read_text())
    return found


def test_strict_exits_with_1_where_the_splits_overlap(audited: Outcome, folder: Path) -> None:
    assert audited.code == 1, audited.err
    shared = read_audit(folder)["overlap"]["shared"]
    assert [(p["problem_id"], p["other_id"]) for p in shared] == [
        ("train-1", "train-1"),
        ("train-2", "valid-3"),
    ]
    assert "train-2" in audited.out
    ids = (folder / "storage/audit/demo/train/overlapping.txt").read_text()
    assert ids == "train-1\ntrain-2\n"


def test_the_tables_are_those_of_the_json(audited: Outcome, folder: Path) -> None:
    audit = read_audit(folder)
    assert (audit["labels"]["num_samples"], audit["labels"]["num_pairs"]) == (73, 11 * 9 + 12)
    assert re.search(r"possible pairs .*│ 111 ", audited.out)
    assert re.search(r"each prompt and distinct output once\s+│ ([\d,]+)", audited.out)
    assert [length["unit"] for length in audit["lengths"]] == ["characters", "tokens"]


def test_the_pictures_are_pictures(audited: Outcome, folder: Path) -> None:
    pictures = sorted((folder / "storage/audit/demo/train").glob("*.png"))
    assert [path.stem for path in pictures] == ["labels", "lengths", "overlap", "pairs", "tokens"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert all(path.stat().st_size > 10_000 for path in pictures)


def test_nothing_is_written_beside_the_storage(audited: Outcome, critic: WarmCritic) -> None:
    written = [path.name for path in critic.home.rglob("*") if path.is_file()]
    assert sorted(written) == ["stderr", "stdout"]


def test_without_overlap_strict_is_content(critic: WarmCritic, folder: Path) -> None:
    outcome = critic.run(
        *("audit", "--against", "valid", "--strict"),
        *options("dataset.validation=other.jsonl", "storage.root=other"),
        folder=_with_other_valid(folder),
    )
    assert outcome.code == 0, outcome.err


def _with_other_valid(folder: Path) -> Path:
    rows = make_rows("other", 3)
    for row in rows:
        row["instruction"] = f"Nothing like it at all, {row['problem_id']} says so plainly"
    write_rows(folder / "other.jsonl", rows)
    return folder


def test_a_plan_uses_the_tokens_an_audit_counted(
    audited: Outcome, critic: WarmCritic, folder: Path
) -> None:
    counted = read_audit(folder)["tokens"]["unique_tokens"]
    command = ("featurize", "--split", "train", "--plan-only")
    outcome = critic.run(*command, *options(), folder=folder)
    assert re.search(rf"tokens, counted\s+│ {counted:,} ", outcome.out)


@pytest.fixture(scope="module")
def whole(critic: WarmCritic, folder: Path) -> Path:
    """A head of pairs drawn from the features of all samples."""
    return _train(critic, folder, "whole", ())


def _train(critic: WarmCritic, folder: Path, name: str, pairs: tuple[str, ...]) -> Path:
    settings = options(
        f"experiment.name={name}",
        "data_sampling.pairwise.length_matched=true",
        "evaluation.train_holdout=0.2",
        "dataset.validation=null",
        "training.n_epochs=1",
    )
    for command in (
        ("featurize", "--split", "train", *pairs),
        ("train-head", "--pairs", str(PAIRS)),
    ):
        outcome = critic.run(*command, *settings, folder=folder)
        assert outcome.code == 0, outcome.err
        assert "other pairs" not in outcome.err
    (folder / f"{name}.txt").write_text(outcome.out)
    return folder / "storage/checkpoints/critic" / name


def test_featurizing_for_pairs_trains_on_the_very_same_pairs(
    critic: WarmCritic, folder: Path, whole: Path
) -> None:
    part = _train(critic, folder, "part", ("--pairs", str(PAIRS)))
    stores = [
        FeatureStore.open(folder / "storage/features" / n / "train") for n in ("whole", "part")
    ]
    assert stores[1].samples.num_rows < stores[0].samples.num_rows == 73
    assert stores[1].manifest.counts["pairs"] == PAIRS
    assert stores[1].manifest.counts["read"] == 73
    runs = [json.loads((path / "run.json").read_text())["result"] for path in (whole, part)]
    for result in runs:
        assert result["num_pairs"] == PAIRS
    same = [name for name in runs[0] if name.startswith(("num_", "mean_length", "longer"))]
    assert {name: runs[0][name] for name in same} == {name: runs[1][name] for name in same}
    # The same pairs in the same order: the heads differ by how the forward passes were packed.
    scores = [load_head(path / "final").score(stores[0]) for path in (whole, part)]
    assert abs(scores[0] - scores[1]).max() < 1e-2 * abs(scores[0]).max()


def test_train_head_says_what_its_pairs_are(folder: Path, whole: Path) -> None:
    out = (folder / "whole.txt").read_text()
    result = json.loads((whole / "run.json").read_text())["result"]
    for name, key in (
        ("pairs", "num_pairs"),
        ("problems", "num_problems"),
        ("samples", "num_samples"),
    ):
        assert re.search(rf"│ {name}\s+│ {result[key]:,} ", out), name
    assert re.search(rf"longer is correct[^│]*│ {result['longer_is_correct']:.3f} ", out)
    assert re.search(rf"correct longer by[^│]*│ {result['mean_length_difference']:.3f} ", out)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("featurize", "--split", "valid", "--pairs", "5"), "not those of valid"),
        (("audit", "--against", "train"), "is the split itself"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    critic: WarmCritic, folder: Path, command: tuple[str, ...], told: str
) -> None:
    outcome = critic.run(*command, *options(), folder=folder)
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1
