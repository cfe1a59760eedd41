from pathlib import Path

import pytest
from headtrain.evaluation.place import results_dir

RESULTS = Path("storage/evaluation/demo")


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    heads = Path("storage/checkpoints/critic/demo")
    write_record(heads / "final")
    return heads


def write_record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "head.json").write_text("{}")


def test_results_of_the_head_that_is_judged_by_default_are_on_top(heads: Path) -> None:
    best, final = heads / "best", heads / "final"
    assert results_dir(str(final), heads, RESULTS) == RESULTS
    best.mkdir()
    assert results_dir(str(final), heads, RESULTS) == RESULTS  # no head is in best yet
    write_record(best)
    assert results_dir(str(best), heads, RESULTS) == RESULTS
    assert results_dir(str(best.absolute()), heads, RESULTS) == RESULTS
    assert results_dir(str(final), heads, RESULTS) == RESULTS / "final"


def test_results_of_other_heads_are_in_folders_named_after_them(heads: Path) -> None:
    assert results_dir("other/best", Path("none/here"), RESULTS).parent == RESULTS
    winner = str(heads / "sweep" / "winner")
    assert results_dir(winner, heads, RESULTS) == RESULTS / "sweep-winner"
    others = ["other/best", "elsewhere/other/best", "s3://bucket/other/best", "a b/<best>"]
    folders = [results_dir(head, heads, RESULTS) for head in others]
    assert len(set(folders)) == len(others)
    assert all(folder.parent == RESULTS for folder in folders)
    assert [folder.name[:-7] for folder in folders] == [*["other-best"] * 3, "a-b-best"]
