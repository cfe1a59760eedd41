import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featurize.store import FeatureStore, sole_writer
from headtrain.settings import (
    DataSamplingSettings,
    EvaluationSettings,
    PairwiseSettings,
)
from headtrain.sweep.points import SweepPoint
from headtrain.sweep.result import SweepResult
from headtrain.sweep.run import run_sweep
from headtrain.sweep.stacks import StackRun
from headtrain.tracking import NullTracker
from tests.support.sweep_runs import (
    WIDTHS,
    Children,
    Killed,
    assert_same,
    found_by,
    kill_after,
    point,
)
from tests.support.synthetic_stores import write_store

CPU = torch.device("cpu")
NUM_STACKS = 3


POINTS = [point(name) for name in WIDTHS]  # three widths, so three stacks

Sweep = Callable[..., SweepResult]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, FeatureStore]:
    base = tmp_path_factory.mktemp("stores")
    options: dict[str, Any] = {"tensors": WIDTHS, "signal": 0.4}
    return (
        write_store(base / "train", num_problems=20, seed=1, **options),
        write_store(base / "valid", num_problems=16, seed=2, fingerprint="valid", **options),
    )


@pytest.fixture
def sweep(stores: tuple[FeatureStore, FeatureStore], tmp_path: Path) -> Sweep:
    def run(folder: str = "sweep", **changes: Any) -> SweepResult:
        arguments: dict[str, Any] = {
            "train": stores[0],
            "valid": stores[1],
            "points": POINTS,
            "seeds": [5, 6],
            "evaluation": EvaluationSettings(bootstrap_rounds=50, train_holdout=0.2),
            "save_checkpoint_every": 0.5,
            "device": CPU,
            "mixed_precision": True,
            "folder": tmp_path / folder,
            "tracker": NullTracker(),
        }
        return run_sweep(**(arguments | changes))

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the stacks that are trained from now on."""
    sizes: list[int] = []
    go = StackRun.go

    def note(self: StackRun, every: float | None) -> Any:
        sizes.append(len(self.candidates))
        return go(self, every)

    monkeypatch.setattr(StackRun, "go", note)
    return sizes


@pytest.mark.parametrize("num_stacks", [1, 2])
def test_a_killed_sweep_trains_only_what_is_left_and_finds_the_same(
    sweep: Sweep, trained: list[int], tmp_path: Path, num_stacks: int
) -> None:
    undisturbed = sweep("undisturbed")
    whole = list(trained)
    assert len(whole) == NUM_STACKS
    trained.clear()
    with pytest.raises(Killed):
        sweep(progress=kill_after(num_stacks))
    assert trained == whole[:num_stacks]
    trained.clear()
    resumed = sweep()
    assert trained == whole[num_stacks:]
    assert_same(tmp_path, resumed, undisturbed)
    assert not (tmp_path / "sweep/stacks").exists()


def test_a_sweep_that_sigkill_ended_goes_on(
    sweep: Sweep, trained: list[int], tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:
        try:
            sweep(progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    resumed = sweep()
    assert len(trained) == NUM_STACKS - 1
    assert_same(tmp_path, resumed, sweep("undisturbed"))


def test_a_rerun_of_a_finished_sweep_does_nothing_and_says_so(
    sweep: Sweep, trained: list[int], tmp_path: Path
) -> None:
    first = sweep()
    trained.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = sweep(tracker=(tracker := Children()))
    assert trained == []
    assert tracker.run_ids == []
    assert second.was_up_to_date
    assert not first.was_up_to_date
    assert second.to_dict() == first.to_dict()
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_sweep_that_waited_for_the_same_one_does_nothing(
    sweep: Sweep, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []

    @contextlib.contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        """What a sweep sees that another one kept out until it had ended."""
        monkeypatch.setattr("headtrain.sweep.run.sole_writer", sole_writer)
        firsts.append(sweep())
        trained.clear()
        with sole_writer(folder):
            yield

    monkeypatch.setattr("headtrain.sweep.run.sole_writer", after_another)
    tracker = Children()
    second = sweep(tracker=tracker)
    [first] = firsts
    assert second == dataclasses.replace(first, was_up_to_date=True)
    assert (trained, tracker.run_ids) == ([], [])


def test_a_sweep_asked_to_overwrite_trains_all_again(sweep: Sweep, trained: list[int]) -> None:
    with pytest.raises(Killed):
        sweep(progress=kill_after(1))
    trained.clear()
    assert not sweep(overwrite=True).was_up_to_date
    assert not sweep(overwrite=True).was_up_to_date
    assert len(trained) == 2 * NUM_STACKS


@pytest.mark.parametrize("lost", ["winner/head.safetensors", "sweep.json", "run.json"])
def test_a_finished_sweep_that_lost_a_file_is_swept_again(
    sweep: Sweep, tmp_path: Path, lost: str
) -> None:
    first = sweep()
    (tmp_path / "sweep" / lost).unlink()
    second = sweep()
    assert not second.was_up_to_date
    assert found_by(second) == found_by(first)
    assert (tmp_path / "sweep" / lost).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"points": [point("mean.1", dropout=0.1)]},
        {"seeds": [7]},
        {"save_checkpoint_every": None},
        {"evaluation": EvaluationSettings(bootstrap_rounds=60, train_holdout=0.2)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_sweep_in_the_folder_replaces_it(
    sweep: Sweep, trained: list[int], changes: dict[str, Any]
) -> None:
    sweep(points=POINTS[:1], seeds=[5])
    trained.clear()
    changed = sweep(**({"points": POINTS[:1], "seeds": [5]} | changes))
    assert not changed.was_up_to_date
    assert trained


def test_what_another_sweep_found_does_not_stand_for_one_that_was_killed(
    sweep: Sweep, tmp_path: Path
) -> None:
    sweep(points=POINTS[:1], seeds=[5])
    assert (tmp_path / "sweep/winner/head.json").exists()
    with pytest.raises(Killed):
        sweep(points=POINTS[:1], seeds=[6], progress=kill_after(1))
    assert not (tmp_path / "sweep/winner").exists()
    assert not (tmp_path / "sweep/sweep.json").exists()


def test_a_larger_grid_keeps_the_stacks_that_are_the_same(
    sweep: Sweep, trained: list[int], tmp_path: Path
) -> None:
    with pytest.raises(Killed):  # both are trained, nothing is judged
        sweep(points=POINTS[2:], progress=kill_after(2))
    trained.clear()
    resumed = sweep()
    assert trained == [4]
    assert_same(tmp_path, resumed, sweep("undisturbed"))


def test_heads_are_no_other_sweeps_when_only_the_pairs_differ(
    sweep: Sweep, trained: list[int], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        sweep(points=POINTS[:1], progress=kill_after(1))
    trained.clear()
    excluded = tmp_path / "excluded.txt"
    excluded.write_text("problem-003\n")
    pairwise = PairwiseSettings(n_pairs=100, exclude_problems=str(excluded))
    other = SweepPoint(
        varied=POINTS[0].varied,
        training=POINTS[0].training,
        sampling=DataSamplingSettings(pairwise=pairwise),
        run_config={},
    )
    sweep(points=[other])
    assert trained == [2]
    trained.clear()
    excluded.write_text("problem-004\n")  # the settings are the same, the pairs are not
    sweep(points=[other])
    assert trained == [2]


def test_a_damaged_stack_is_trained_again(
    sweep: Sweep, trained: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        sweep(progress=kill_after(2))
    first, second = sorted((tmp_path / "sweep/stacks").iterdir())
    weights = first / "heads.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (second / "stack.json").write_text("{")
    trained.clear()
    resumed = sweep()
    assert len(trained) == NUM_STACKS
    assert caplog.text.count("is not whole and is trained again") == 2
    assert_same(tmp_path, resumed, sweep("undisturbed"))


def test_child_runs_are_not_doubled(sweep: Sweep, trained: list[int]) -> None:
    tracker = Children(most=3)
    with pytest.raises(Killed):
        sweep(tracker=tracker)
    assert len(tracker.names) == 3
    trained.clear()
    tracker.most = None
    sweep(tracker=tracker)
    assert trained == []
    assert len(tracker.names) == len(set(tracker.names)) == 8
    assert tracker.run_ids == [None, "parent"]


@pytest.mark.parametrize("batching", [{}, {"batching": "problems", "problem_pairs": "all"}])
@pytest.mark.parametrize("place", [0, 1])
def test_a_head_that_diverges_takes_no_other_of_its_stack_with_it(
    sweep: Sweep, batching: dict[str, str], place: int
) -> None:
    """Problems have unlike numbers of pairs, so that shorter batches are padded."""
    fine = point("mean.1", **batching)
    hopeless = point("mean.1", value_head_learning_rate=1e30, max_grad_norm=None, **batching)
    points = [fine, fine]
    points[place] = hopeless
    seeds = [5, 6]
    result = sweep(points=points, seeds=seeds)
    by_name = {json.dumps(dict(one.varied)): one for one in result.points}
    assert by_name[json.dumps(dict(hopeless.varied))].of_seeds == (None, None)
    alone = sweep("alone", points=[fine], seeds=seeds)
    kept = by_name[json.dumps(dict(fine.varied))]
    assert None not in kept.of_seeds
    found = np.array(kept.of_seeds, float)
    assert found == pytest.approx(np.array(alone.points[0].of_seeds, float), abs=0.03)
