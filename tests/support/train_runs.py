"""Small training runs, and ways to follow and to kill them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headtrain.head.checkpoint import TrainedHead, load_head
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.tracking.tracker import Tracker
from headtrain.training.run import TrainResult, train_head
from tests.support.synthetic_stores import write_store

Train = Callable[..., TrainResult]


class Killed(BaseException):
    """What a test kills a run with; no handler of ours may catch it for good."""


class RecordingTracker(Tracker):
    def __init__(self) -> None:
        self.begun_with: list[str | None] = []
        self.metrics: dict[int, dict[str, float]] = {}
        self.statuses: list[str] = []
        self.files: list[str] = []
        self.children: list[tuple[str, dict[str, str], list[Any]]] = []

    def begin(self, config: Any, run_id: str | None) -> str | None:
        self.begun_with.append(run_id)
        return run_id or "run-1"

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.metrics[step] = dict(metrics)

    def log_child(self, name: str, parameters: Any, history: Any) -> None:
        self.children.append((name, dict(parameters), list(history)))

    def log_files(self, files: Any, folder: str) -> None:
        self.files += [f"{folder}/{file.name}" for file in files]

    def finish(self, status: str = "FINISHED") -> None:
        self.statuses.append(status)


def make_train(tmp_path: Path) -> Train:
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
            "tracker": Tracker(),
        }
        return train_head(**(arguments | changes))

    return run


def head_at(folder: Path | None) -> TrainedHead:
    """The head in a folder of a result, which must be there."""
    assert folder is not None
    return load_head(folder)


def weights_of(folder: Path | None) -> dict[str, torch.Tensor]:
    return head_at(folder).model.saved_state()


def assert_same_weights(left: Path | None, right: Path | None) -> None:
    first, second = weights_of(left), weights_of(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def kill_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, _total: int) -> None:
        if done >= step:
            raise Killed

    return progress
