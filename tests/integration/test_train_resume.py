from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headtrain.checkpoint import CheckpointError, load_head
from headtrain.run import TrainProgress
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.tracking import NullTracker
from headtrain.train import TrainResult, train_head
from tests.synthetic_stores import write_store

Train = Callable[..., TrainResult]


class Killed(BaseException):
    """What a test kills a run with; no handler of ours may catch it for good."""


class RecordingTracker(NullTracker):
    def __init__(self) -> None:
        self.begun_with: list[str | None] = []
        self.metrics: dict[int, dict[str, float]] = {}
        self.statuses: list[str] = []
        self.files: list[str] = []

    def begin(self, config: Any, run_id: str | None) -> str | None:
        self.begun_with.append(run_id)
        return run_id or "run-1"

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.metrics[step] = dict(metrics)

    def log_files(self, files: Any, folder: str) -> None:
        self.files += [f"{folder}/{file.name}" for file in files]

    def finish(self, status: str = "FINISHED") -> None:
        self.statuses.append(status)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains a small head into the folder named, on two stores made once."""
    store = write_store(tmp_path / "train", seed=1, likelihood=True)
    valid = write_store(tmp_path / "valid", seed=2, likelihood=True, fingerprint="valid")

    def run(folder: str = "run", **changes: Any) -> TrainResult:
        training = {
            "n_epochs": 2.5,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "log_interval": 3,
        } | changes.pop("training", {})
        checkpoint = {"save_checkpoint_every": 0.25} | changes.pop("checkpoint", {})
        sampling = {"n_pairs": 100} | changes.pop("pairwise", {})
        arguments: dict[str, Any] = {
            "train": store,
            "valid": valid,
            "training": TrainingSettings(**training),
            "sampling": DataSamplingSettings(pairwise=PairwiseSettings(**sampling)),
            "checkpoint": CheckpointSettings(save_dir=folder, **checkpoint),
            "device": torch.device("cpu"),
            "seed": 7,
            "run_config": {"experiment": {"name": "test"}},
            "checkpoint_dir": tmp_path / folder,
            "tracker": NullTracker(),
        }
        return train_head(**(arguments | changes))

    return run


def weights_of(folder: Path | None) -> dict[str, torch.Tensor]:
    assert folder is not None
    return load_head(folder).model.state_dict()


def assert_same_weights(left: Path | None, right: Path | None) -> None:
    first, second = weights_of(left), weights_of(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def kill_at(step: int) -> Callable[[TrainProgress], None]:
    def progress(line: TrainProgress) -> None:
        if line.step >= step:
            raise Killed

    return progress


def test_the_head_learns_what_separates_the_labels(train: Train) -> None:
    result = train(training={"n_epochs": 10})
    assert result.valid_over_problems is not None
    assert result.valid_over_problems > 0.95
    assert result.num_pairs == 100
    assert result.num_problems == 12
    assert result.num_possible_pairs == 12 * 16


def test_features_without_signal_stay_at_chance(train: Train, tmp_path: Path) -> None:
    noise = write_store(tmp_path / "noise", signal=0.0, num_problems=60, seed=3)
    valid = write_store(tmp_path / "noise-valid", signal=0.0, num_problems=60, seed=4)
    result = train(train=noise, valid=valid)
    assert result.valid_over_problems == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("step", [1, 5, 9, 22, 30])
def test_a_killed_run_goes_on_to_bitwise_the_same_weights(train: Train, step: int) -> None:
    straight = train("straight")
    with pytest.raises(Killed):
        train("killed", progress=kill_at(step))
    resumed = train("killed")
    assert (resumed.resumed_from_step is not None) == (step > 3)
    assert_same_weights(straight.final, resumed.final)
    assert_same_weights(straight.best, resumed.best)
    assert resumed.best_step == straight.best_step
    assert resumed.train_metrics["loss"] > 0


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
        def __init__(self) -> None:
            super().__init__()
            self.written: set[int] = set()

        def flush(self) -> None:
            self.written |= self.metrics.keys()

    tracker = WaitingTracker()
    with pytest.raises(Killed):
        train(tracker=tracker, progress=kill_at(22))
    resumed = train()
    assert resumed.resumed_from_step is not None
    logged = {step for step in tracker.metrics if step <= resumed.resumed_from_step}
    assert logged
    assert logged <= tracker.written


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


def test_changed_settings_are_refused_by_name_and_replaced_with_overwrite(train: Train) -> None:
    train()
    with pytest.raises(CheckpointError, match=r"training\.dropout 0\.3 -> 0\.1.*overwrite"):
        train(training={"dropout": 0.1})
    replaced = train(training={"dropout": 0.1}, overwrite=True)
    fresh = train("fresh", training={"dropout": 0.1})
    assert_same_weights(replaced.final, fresh.final)


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


def test_best_is_the_highest_accuracy_ever_seen(train: Train, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    noise = write_store(tmp_path / "noise", signal=0.0, likelihood=True, fingerprint="noise")
    training = {"value_head_learning_rate": 0.05, "n_epochs": 4}
    result = train(valid=noise, tracker=tracker, training=training)
    seen = [
        line["valid/accuracy_over_problems"]
        for line in tracker.metrics.values()
        if "valid/accuracy_over_problems" in line
    ]
    assert max(seen) > seen[-1]
    assert result.valid_over_problems == max(seen)
    assert result.best is not None
    assert load_head(result.best).record.step == result.best_step


def test_without_a_validation_set_only_the_final_head_is_kept(train: Train) -> None:
    result = train(valid=None)
    assert result.best is None
    assert result.valid_over_problems is None
    assert weights_of(result.final)
    with pytest.raises(ValueError, match="save_final"):
        train("other", valid=None, checkpoint={"save_final": False})


def test_stores_of_different_recipes_are_refused(train: Train, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", recipe_fingerprint="other", likelihood=True)
    with pytest.raises(ValueError, match=r"different recipes \(recipe, other\)"):
        train(valid=other)


def test_a_diverging_run_stops_and_says_what_to_lower(train: Train) -> None:
    with pytest.raises(ValueError, match=r"value_head_learning_rate 1e\+30"):
        train(training={"value_head_learning_rate": 1e30, "max_grad_norm": None, "n_epochs": 9})


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_the_pointwise_baseline_learns_from_the_same_samples(train: Train, kind: str) -> None:
    result = train(training={"loss_type": "pointwise", "pointwise_loss": kind, "n_epochs": 20})
    assert result.valid_over_problems is not None
    assert result.valid_over_problems > 0.9


def test_heads_are_copied_to_a_uri_when_they_are_written(train: Train, tmp_path: Path) -> None:
    target = tmp_path / "bucket"
    result = train(checkpoint={"s3_upload": True, "s3_uri": target.as_uri()})
    assert result.best is not None
    copies = target / result.best.parent.name
    assert_same_weights(result.best, copies / "best")
    assert_same_weights(result.final, copies / "final")
    assert load_head(f"{copies.as_uri()}/final").record.step == result.num_steps


def test_the_global_random_state_is_left_as_it_was(train: Train) -> None:
    before = torch.get_rng_state()
    train()
    assert torch.equal(before, torch.get_rng_state())


def test_a_trained_head_scores_every_sample_of_a_store(train: Train, tmp_path: Path) -> None:
    result = train(training={"n_epochs": 10})
    labels = [None if place % 5 == 0 else bool(place % 2) for place in range(96)]
    store = write_store(tmp_path / "more", likelihood=True, labels=labels, seed=5)
    assert result.best is not None
    values = load_head(result.best).score(store)
    assert values.shape == (96,)
    is_correct = [label is True for label in labels]
    is_wrong = [label is False for label in labels]
    assert (values[is_correct][:, None] > values[is_wrong]).mean() > 0.95
