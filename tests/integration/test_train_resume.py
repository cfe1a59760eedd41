import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from featurize.errors import CriticError, FeatureStoreError
from featurize.io.files import sole_writer
from headtrain.head.checkpoint import CheckpointError
from headtrain.tracking.tracker import Tracker
from tests.support.synthetic_stores import replace_column, write_store
from tests.support.train_runs import (
    Killed,
    RecordingTracker,
    Train,
    assert_same_weights,
    head_at,
    kill_at,
    make_train,
    weights_of,
)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    return make_train(tmp_path)


@pytest.mark.parametrize("step", [1, 5, 9, 22, 30])
def test_a_killed_run_resumes_to_bitwise_the_same_weights(train: Train, step: int) -> None:
    straight = train("straight")
    with pytest.raises(Killed):
        train("killed", progress=kill_at(step))
    resumed = train("killed")
    assert (resumed.resumed_from_step is not None) == (step > 3)
    assert_same_weights(straight.final, resumed.final)
    assert_same_weights(straight.best, resumed.best)
    assert resumed.best_step == straight.best_step
    assert resumed.train_metrics["loss"] > 0


@pytest.mark.parametrize("kind", ["gated", "attention"])
def test_a_killed_run_of_a_head_on_segments_and_prefixes_resumes_to_the_same_weights(
    train: Train, tmp_path: Path, kind: str
) -> None:
    stores = {
        name: write_store(tmp_path / f"cut-{name}", segments=4, signal=0.5, fingerprint=name)
        for name in ("train", "valid")
    }
    training = {
        "value_head_type": kind,
        "segment_value": "mlp",
        "prefixes": (0.5, 1.0),
        "value_head_width": 4,
    }
    straight = train("straight", training=training, **stores)
    with pytest.raises(Killed):
        train("killed", training=training, progress=kill_at(30), **stores)
    resumed = train("killed", training=training, **stores)
    assert (resumed.resumed_from_step or 0) > 0
    assert_same_weights(straight.final, resumed.final)
    head = head_at(resumed.final)
    assert (head.record.head_type, head.record.segment_value) == (kind, "mlp")
    assert np.isfinite(head.score(stores["valid"])).all()
    assert train("straight", training=training, **stores).was_up_to_date


def test_a_run_killed_twice_logs_every_step_once_more_at_most(train: Train) -> None:
    straight, killed = RecordingTracker(), RecordingTracker()
    train("straight", tracker=straight)
    for step in (6, 18):
        with pytest.raises(Killed):
            train("killed", tracker=killed, progress=kill_at(step))
    train("killed", tracker=killed)
    assert killed.begun_with == [None, "run-1", "run-1"]
    assert killed.statuses == ["KILLED", "KILLED", "FINISHED"]
    assert killed.metrics.keys() == straight.metrics.keys()
    name = "valid/accuracy_over_problems"
    assert [line.get(name) for line in killed.metrics.values()] == [
        line.get(name) for line in straight.metrics.values()
    ]
    assert "heads/best/head.json" in straight.files


def test_what_was_logged_before_a_checkpoint_survives_a_kill(train: Train) -> None:
    class WaitingTracker(RecordingTracker):
        """Loses all it was told when it is killed before it ends."""

        def waiting(self) -> list[tuple[int, dict[str, float]]]:
            return list(self.metrics.items())

    straight, killed, resumed = RecordingTracker(), WaitingTracker(), RecordingTracker()
    train("straight", tracker=straight)
    with pytest.raises(Killed):
        train(tracker=killed, progress=kill_at(22))
    result = train(tracker=resumed)
    assert result.resumed_from_step is not None
    assert resumed.metrics.keys() == straight.metrics.keys()
    for step, metrics in straight.metrics.items():
        assert resumed.metrics[step] == metrics, step


def test_a_rerun_of_a_finished_run_does_nothing(train: Train) -> None:
    first = train()
    stamp = (first.final / "head.json").stat().st_mtime_ns if first.final else 0
    again = train(progress=kill_at(0))
    assert again.was_up_to_date
    assert not first.was_up_to_date
    assert (again.final, again.valid_over_problems) == (first.final, first.valid_over_problems)
    assert first.final is not None
    assert (first.final / "head.json").stat().st_mtime_ns == stamp


def test_a_finished_run_whose_head_is_gone_is_trained_again(train: Train) -> None:
    first = train()
    assert first.final is not None
    (first.final / "head.safetensors").unlink()
    again = train()
    assert not again.was_up_to_date
    assert weights_of(again.final)


@pytest.mark.parametrize(
    ("setting", "value", "change"),
    [
        ("dropout", 0.1, "dropout 0.3 -> 0.1"),
        ("normaliser", "none", "normaliser None -> none"),  # a setting that came later
    ],
)
def test_changed_settings_are_refused_by_name(
    train: Train, setting: str, value: object, change: str
) -> None:
    train()
    with pytest.raises(CheckpointError, match=rf"changed: training\.{change}.*overwrite"):
        train(training={setting: value})


def test_changed_data_is_refused(train: Train, tmp_path: Path) -> None:
    train()
    other = write_store(tmp_path / "other", fingerprint="other", likelihood=True)
    with pytest.raises(CheckpointError, match="train_features content -> other"):
        train(train=other)


def test_how_often_a_run_speaks_or_uploads_does_not_make_it_another_run(train: Train) -> None:
    train()
    assert train(
        training={"log_interval": 50}, checkpoint={"save_total_limit": None}
    ).was_up_to_date


def test_overwrite_leaves_files_of_others_alone(train: Train, tmp_path: Path) -> None:
    train()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    train(overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_two_runs_never_train_in_one_folder_at_once(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train()
    monkeypatch.setattr(
        "headtrain.training.run.sole_writer", functools.partial(sole_writer, patience=0)
    )
    with (
        sole_writer(tmp_path / "run"),
        pytest.raises(FeatureStoreError, match=rf"/run: .*\(process {os.getpid()}"),
    ):
        train(overwrite=True)
    assert train().was_up_to_date
    assert_same_weights(train(overwrite=True).final, first.final)


def test_a_run_that_waited_for_the_same_one_does_nothing(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []

    @contextlib.contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        """What a run sees that another one kept out until it had ended."""
        monkeypatch.setattr("headtrain.training.run.sole_writer", sole_writer)
        firsts.append(train())
        with sole_writer(folder):
            yield

    monkeypatch.setattr("headtrain.training.run.sole_writer", after_another)
    tracker = RecordingTracker()
    steps: list[int] = []
    second = train(tracker=tracker, progress=lambda done, _total: steps.append(done))
    [first] = firsts
    assert not first.was_up_to_date
    assert second == dataclasses.replace(first, was_up_to_date=True)
    assert (steps, tracker.begun_with) == ([], [])


def test_a_torn_checkpoint_is_passed_over(train: Train, tmp_path: Path) -> None:
    straight = train("straight")
    with pytest.raises(Killed):
        train("killed", progress=kill_at(22))
    newest = sorted((tmp_path / "killed").glob("step-*"))[-1]
    (newest / "optimizer.safetensors").write_bytes(b"torn")
    resumed = train("killed")
    assert resumed.resumed_from_step is not None
    assert resumed.resumed_from_step < int(newest.name.removeprefix("step-"))
    assert_same_weights(straight.final, resumed.final)


def test_only_the_newest_step_checkpoints_are_kept(train: Train, tmp_path: Path) -> None:
    train("two", checkpoint={"save_total_limit": 2})
    train("all", checkpoint={"save_total_limit": None})
    steps = sorted(folder.name for folder in (tmp_path / "all").glob("step-*"))
    assert len(steps) == 10  # every 3 steps of 32
    assert sorted(folder.name for folder in (tmp_path / "two").glob("step-*")) == steps[-2:]
    assert (tmp_path / "two" / "best" / "head.json").exists()
    assert (tmp_path / "two" / "final" / "head.json").exists()


def test_the_global_random_state_is_left_as_it_was(train: Train) -> None:
    before = torch.get_rng_state()
    train()
    assert torch.equal(before, torch.get_rng_state())


class RefusingTracker(Tracker):
    """A tracking server that refuses every run."""

    def begin(self, config: Any, run_id: str | None) -> str | None:
        raise CriticError("mlflow.tracking_uri 'file:///x': not a server")


@pytest.mark.parametrize("changes", [{"tracker": RefusingTracker()}, {"progress": kill_at(9)}])
def test_an_overwrite_that_fails_leaves_the_earlier_heads_as_they_were(
    train: Train, changes: dict[str, Any]
) -> None:
    first = train()
    before = [weights_of(first.best), weights_of(first.final)]
    with pytest.raises((CriticError, Killed)):
        train(training={"dropout": 0.1}, overwrite=True, **changes)
    for head, weights in zip((first.best, first.final), before, strict=True):
        for name, tensor in weights_of(head).items():
            assert torch.equal(tensor, weights[name])
    assert train().was_up_to_date


def test_an_overwrite_replaces_heads_of_other_settings(train: Train, tmp_path: Path) -> None:
    train()
    replaced = train(training={"dropout": 0.1}, overwrite=True)
    assert_same_weights(replaced.final, train("plain", training={"dropout": 0.1}).final)
    assert replaced.final == tmp_path / "run/final"
    assert not (tmp_path / "run/new").exists()
    assert train(training={"dropout": 0.1}).was_up_to_date


def test_strict_refuses_problem_ids_that_statements_share(train: Train, tmp_path: Path) -> None:
    store = write_store(tmp_path / "shared")
    tokens = pa.array([10 + place % 2 for place in range(store.samples.num_rows)])
    store = replace_column(store, "prompt_tokens", tokens)
    with pytest.raises(CriticError, match=r"shared: 12 of 12 problem ids .*problem_id"):
        train(train=store, strict=True)
