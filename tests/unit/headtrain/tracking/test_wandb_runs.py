"""Weights & Biases: the calls it gets, its failures, and real runs in offline mode."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featurize.errors import CriticError
from headtrain.tracking.tracker import Tracker
from headtrain.tracking.wandb_runs import STEP, WandbTracker


class FakeWandb(SimpleNamespace):
    """A module that notes its calls."""

    def __init__(self) -> None:
        super().__init__(calls=[], opened=[], __spec__=importlib.util.find_spec("json"))

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **options: Any) -> Any:
        self.opened.append(options)
        return FakeRun(self.calls, f"{options['dir']}/run-{len(self.opened)}")


class FakeRun:
    def __init__(self, calls: list[Any], folder: str) -> None:
        self.calls = calls
        self.dir = folder

    def log(self, metrics: dict[str, float]) -> None:
        self.calls.append(("log", metrics))

    def save(self, file: str, *, base_path: str, policy: str, glob: bool) -> None:
        assert (base_path, policy, glob) == (self.dir, "now", False)
        assert Path(file).is_file()
        self.calls.append(("save", str(Path(file).relative_to(base_path))))

    def finish(self, exit_code: int = 0) -> None:
        self.calls.append(("finish", exit_code))

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", STEP)


def write_all(files: Sequence[Path]) -> None:
    """Writes files that hold their own names."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)


class Numbered(Tracker):
    """Gives every run one id."""

    def begin(self, config: Any, run_id: str | None) -> str | None:
        return "abc"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_is_logged_under_the_id_of_the_first_tracker(fake: FakeWandb, tmp_path: Path) -> None:
    tracker = WandbTracker(Numbered(), "project", tmp_path, run_name="demo")
    assert tracker.begin({"seed": 1}, None) == "abc"
    tracker.log_metrics({"train/loss": 0.5}, 3)
    tracker.finish("FAILED")
    opened = fake.opened[0]
    assert (opened["project"], opened["id"], opened["name"]) == ("project", "abc", "demo")
    assert opened["config"] == {"seed": 1}
    assert fake.calls == [("log", {"train/loss": 0.5, STEP: 3}), ("finish", 1)]


def test_the_command_line_and_the_machine_are_not_recorded(fake: FakeWandb, tmp_path: Path) -> None:
    WandbTracker(Tracker(), "project", tmp_path).begin({}, "abc")
    settings = fake.opened[0]["settings"]
    assert all(settings[name] for name in ("x_disable_meta", "disable_git", "disable_code"))
    assert settings["console"] == "off"


def test_an_evaluation_joins_the_run_of_its_head(fake: FakeWandb, tmp_path: Path) -> None:
    files = [tmp_path / "valid.json", tmp_path / "valid" / "gaps.png"]
    write_all(files)
    WandbTracker(Tracker(), "project", tmp_path).log_evaluation(
        "abc", {"eval/valid/accuracy": 0.7}, files
    )
    assert (fake.opened[0]["id"], fake.opened[0]["resume"]) == ("abc", "allow")
    assert fake.calls == [
        ("log", {"eval/valid/accuracy": 0.7, STEP: 0}),
        ("save", "valid.json"),
        ("save", "valid/gaps.png"),
        ("finish", 0),
    ]


def test_the_files_of_two_heads_are_kept_apart_and_as_they_were(
    fake: FakeWandb, tmp_path: Path
) -> None:
    tracker = WandbTracker(Tracker(), "project", tmp_path)
    tracker.begin({}, "abc")
    for name in ("best", "final"):
        files = [tmp_path / name / "head.json"]
        write_all(files)
        tracker.log_files(files, f"heads/{name}")
        files[0].write_text("of a later training")
    assert fake.calls == [("save", f"heads/{name}/head.json") for name in ("best", "final")]
    kept = tmp_path / "run-1/heads/best/head.json"
    assert (kept.read_text(), kept.is_symlink()) == ("head.json", False)


def test_a_child_is_in_the_group_of_its_sweep(fake: FakeWandb, tmp_path: Path) -> None:
    tracker = WandbTracker(Tracker(), "project", tmp_path)
    tracker.begin({}, "abc")
    tracker.log_child("lr=1", {"lr": "1"}, [(1, {"loss": 2.0})])
    assert (fake.opened[1]["group"], fake.opened[1]["name"]) == ("abc", "lr=1")
    assert fake.calls == [("log", {"loss": 2.0, STEP: 1}), ("finish", 0)]


def test_a_failing_server_is_one_warning_and_the_run_continues(
    fake: FakeWandb,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(**options: Any) -> Any:
        raise RuntimeError("no answer")

    monkeypatch.setattr(fake, "init", refuse)
    tracker = WandbTracker(Tracker(), "project", tmp_path)
    assert tracker.begin({}, "abc") == "abc"
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_child("lr=1", {}, [])
    tracker.finish()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no answer" in caplog.text
    assert "WANDB_MODE=offline" in caplog.text


def test_a_missing_library_is_one_line_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CriticError, match=r"wandb\.project 'mine': .*critic\[wandb\]"):
        WandbTracker(Tracker(), "mine", tmp_path)


def test_wandb_itself_writes_a_run_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["critic", "password-of-the-command-line"])
    attached = tmp_path / "valid.json"
    attached.write_text("{}")
    tracker = WandbTracker(Tracker(), "project", tmp_path, run_name="demo")
    tracker.begin({"seed": 12345}, "abc")
    tracker.log_metrics({"train/loss": 0.5}, 1)
    tracker.log_files([attached], "heads/best")
    tracker.finish()
    tracker.log_evaluation("abc", {"eval/valid/accuracy": 0.7}, [attached])
    written = [file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/run-abc.wandb")]
    assert any(b"train/loss" in text and b"12345" in text for text in written)
    assert any(b"eval/valid/accuracy" in text for text in written)
    everything = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert b"password-of-the-command-line" not in everything
    kept = [file for file in tmp_path.glob("wandb/offline-run-*/files/**/*") if file.is_file()]
    names = {str(file).partition("/files/")[2] for file in kept}
    assert names == {"heads/best/valid.json", "valid.json"}
    assert not any(file.is_symlink() for file in kept)
    assert not caplog.records
    assert capfd.readouterr().err == ""
