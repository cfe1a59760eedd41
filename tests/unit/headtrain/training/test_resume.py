"""A run takes the place of another at once, and an interrupted swap is completed."""

import contextlib
from pathlib import Path

import pytest

from headtrain.training.resume import Replacement, RunFile
from tests.support.train_runs import Killed

PATTERNS = ("best", "final", "step-*")


def write(folder: Path, run: str, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "head.json").write_text(run)
    (folder / "run.json").write_text(run)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def replacement(tmp_path: Path) -> Replacement:
    write(tmp_path, "old", "best", "final", "step-1")
    (tmp_path / "notes.txt").write_text("mine")
    return Replacement(tmp_path, PATTERNS)


WANTED = {
    "best/head.json": "new",
    "notes.txt": "mine",
    "run.json": "new",
    "step-2/head.json": "new",
}


@pytest.mark.parametrize("content", ["", "[]", "7", "null", "{"])
def test_a_damaged_record_of_a_run_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/run\.json: .*; delete it and rerun"):
        RunFile(tmp_path, 1).read()


def test_nothing_changes_until_the_new_run_is_complete(
    replacement: Replacement, tmp_path: Path
) -> None:
    before = content(tmp_path)
    write(replacement.begin(), "new", "best", "step-2")
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before
    Replacement(tmp_path, PATTERNS).complete_interrupted()
    assert content(tmp_path) == after


def test_what_the_new_run_has_not_made_is_deleted(replacement: Replacement, tmp_path: Path) -> None:
    write(replacement.begin(), "new", "best", "step-2")
    replacement.finish()
    assert content(tmp_path) == WANTED
    assert not replacement.path.exists()


def test_an_attempt_that_failed_leaves_nothing_in_the_next(
    replacement: Replacement, tmp_path: Path
) -> None:
    write(replacement.begin(), "failed", "best", "final")
    write(replacement.begin(), "new", "best", "step-2")
    replacement.finish()
    assert content(tmp_path) == WANTED


@pytest.mark.parametrize("last", range(7))
def test_a_swap_killed_at_any_step_is_completed_by_the_next_run(
    replacement: Replacement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    write(replacement.begin(), "new", "best", "step-2")
    steps = 0
    rename = Path.rename

    def rename_or_die(self: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps > last:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Path, "rename", rename_or_die)
        replacement.finish()
    Replacement(tmp_path, PATTERNS).complete_interrupted()
    assert {k: v for k, v in content(tmp_path).items() if k != "writer.lock"} == WANTED
