"""Small sweeps that are killed, and what they leave compared with what others do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headtrain.head.checkpoint import load_head
from headtrain.settings import (
    DataSamplingSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.sweep.points import SweepPoint
from headtrain.sweep.result import SweepResult
from headtrain.tracking import NullTracker

SAMPLING = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=100))


WIDTHS = {"mean.1": 16, "mean.2": 16, "last.2": 32, "last.3": 48}


class Killed(BaseException):
    """What a test kills a sweep with; no handler of ours may catch it for good."""


class Children(NullTracker):
    """Remembers runs as a server would, beyond the process that told of them."""

    def __init__(self, most: int | None = None) -> None:
        self.names: list[str] = []
        self.most = most
        self.run_ids: list[str | None] = []

    def begin(self, config: Any, run_id: str | None) -> str | None:
        self.run_ids.append(run_id)
        return run_id or "parent"

    def child_names(self) -> list[str]:
        return self.names

    def log_child(self, name: str, parameters: Any, history: Any) -> None:
        if self.most is not None and len(self.names) == self.most:
            raise Killed
        self.names.append(name)


def point(features: str, **settings: Any) -> SweepPoint:
    training = TrainingSettings(
        features=[features], n_epochs=2, batch_size=8, likelihood=False, **settings
    )
    return SweepPoint(
        varied={"features": features} | {name: str(value) for name, value in settings.items()},
        training=training,
        sampling=SAMPLING,
        run_config={"training": {"features": features}},
    )


def found_by(result: SweepResult) -> dict[str, Any]:
    fields = result.to_dict()
    return {name: fields[name] for name in fields if not name.startswith("seconds")}


def assert_same(tmp_path: Path, left: SweepResult, right: SweepResult) -> None:
    """The same points in the same order, and the same winner bit by bit."""
    assert found_by(left) == found_by(right)
    heads = [load_head(tmp_path / name / "winner") for name in ("sweep", "undisturbed")]
    first, second = (head.model.state_dict() for head in heads)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    records = [head.record for head in heads]
    assert records[0] == records[1]


def kill_after(num_stacks: int) -> Callable[[int, int], None]:
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == num_stacks:
            raise Killed

    return progress
