"""Files of an evaluation: their folders, what is written once, and when it is up to date."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featurize.io.files import read_json
from headtrain.evaluation.files import (
    default_head,
    is_up_to_date,
    read_evaluation,
    read_inputs,
    record_inputs,
    results_dir,
    write_evaluation,
)
from headtrain.head.checkpoint import find_head
from tests.support.simulated_splits import evaluated, simulated

RESULTS = Path("storage/evaluation/demo")


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    heads = Path("storage/checkpoints/critic/demo")
    write(heads / "final" / "head.json")
    return heads


def write(path: Path, content: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_results_of_the_default_head_are_on_top(heads: Path) -> None:
    best, final = heads / "best", heads / "final"
    best.mkdir()  # still empty
    assert results_dir(str(final), heads, RESULTS) == RESULTS
    assert str(default_head(heads)) == find_head(str(heads))
    write(best / "head.json")
    assert results_dir(str(best.absolute()), heads, RESULTS) == RESULTS
    assert results_dir(str(final), heads, RESULTS) == RESULTS / "final"
    assert str(default_head(heads)) == find_head(str(heads))


def test_results_of_other_heads_are_in_folders_named_after_them(heads: Path) -> None:
    assert results_dir("other/best", Path("none/here"), RESULTS).parent == RESULTS
    winner = str(heads / "sweep" / "winner")
    assert results_dir(winner, heads, RESULTS) == RESULTS / "sweep-winner"
    others = ["other/best", "elsewhere/other/best", "s3://bucket/other/best", "a b/<best>"]
    folders = [results_dir(head, heads, RESULTS) for head in others]
    assert len(set(folders)) == len(others)
    assert all(folder.parent == RESULTS for folder in folders)
    assert [folder.name[:-7] for folder in folders] == [*["other-best"] * 3, "a-b-best"]


def test_an_evaluation_is_written_once_and_read_back(tmp_path: Path) -> None:
    evaluation = evaluated({"valid": simulated(0)})
    record = SimpleNamespace(weights_checksum="sum", recipe_fingerprint="recipe")
    head: Any = SimpleNamespace(path="heads/best", record=record)
    path = tmp_path / "valid.json"
    assert write_evaluation(path, evaluation, head, benchmark={"styles": None})
    assert not write_evaluation(path, evaluation, head, benchmark={"styles": None})
    assert read_json(path)["head"]["path"] == "heads/best"
    assert read_json(path)["details"]["valid"]["controls"]["prompt_only"]["holds"] is True
    assert read_evaluation(path) == evaluation
    record.weights_checksum = "other"
    assert write_evaluation(path, evaluation, head)


@pytest.mark.parametrize("content", ["[]", "{}", '{"splits": {"valid": 1}}', "half {"])
def test_a_file_that_is_no_evaluation_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "valid.json", content)
    with pytest.raises(ValueError, match=r"valid\.json.*delete it"):
        read_evaluation(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A head, a store, and an evaluation of theirs with its record."""
    for name in ("head/head.json", "train/manifest.json", "results/valid/scores.png"):
        write(tmp_path / name, name)
    evaluation = write(tmp_path / "results" / "valid.json")
    picture = tmp_path / "results" / "valid" / "scores.png"
    record_inputs(evaluation, inputs_of(tmp_path) or {}, [evaluation, picture])
    return tmp_path


def inputs_of(folder: Path, seed: int = 1) -> dict[str, Any] | None:
    return read_inputs(folder / "head", {"train": folder / "train"}, seed=seed)


def is_unchanged(folder: Path, **others: Any) -> bool:
    inputs = inputs_of(folder, **others)
    return inputs is not None and is_up_to_date(folder / "results" / "valid.json", inputs)


def test_an_evaluation_of_the_same_inputs_is_up_to_date(folder: Path) -> None:
    assert is_unchanged(folder)
    assert not is_unchanged(folder, seed=2)


@pytest.mark.parametrize(
    "name",
    [
        "head/head.json",
        "train/manifest.json",
        "results/valid.json",
        "results/valid/scores.png",
        "results/valid.inputs.json",
    ],
)
def test_a_file_that_changed_or_is_gone_makes_it_out_of_date(folder: Path, name: str) -> None:
    file = folder / name
    file.write_text("something else")
    assert not is_unchanged(folder)
    file.unlink()
    assert not is_unchanged(folder)
