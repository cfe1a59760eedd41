import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import load_head
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.groups import Candidate, group_by_shape
from headtrain.sweep.inputs import SweepReader, SweepSetup, split_validation
from headtrain.sweep.result import SweepResult
from headtrain.sweep.run import run_sweep
from headtrain.tracking.tracker import Tracker
from headtrain.training.run import train_head
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import Killed, RecordingTracker

CPU = torch.device("cpu")
TENSORS = {"mean.1": 16, "mean.2": 16, "last.2": 16}
SAMPLING = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=150))

Stores = tuple[FeatureStore, FeatureStore]
Sweep = Callable[..., SweepResult]


def kill(done: int, total: int) -> None:
    raise Killed


def point(features: str, sampling: DataSamplingSettings = SAMPLING, **settings: Any) -> SweepPoint:
    training = TrainingSettings(
        features=features.split("+"), n_epochs=2, batch_size=8, likelihood=False, **settings
    )
    return SweepPoint(
        varied={"features": features, **{k: str(v) for k, v in settings.items()}},
        training=training,
        sampling=sampling,
        run_config={"training": {"features": features}},
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    base = tmp_path_factory.mktemp("stores")
    options: dict[str, Any] = {"tensors": TENSORS, "signal": 0.4}
    return (
        write_store(base / "train", num_problems=20, seed=1, **options),
        write_store(base / "valid", num_problems=16, seed=2, fingerprint="valid", **options),
    )


POINTS = [
    point("mean.1", dropout=0.1),
    point("mean.2", dropout=0.1, value_head_learning_rate=0.01),
    point("last.2", dropout=0.3),
    point("mean.1+last.2", dropout=0.1),
    point("mean.1", dropout=0.1, normaliser="tensor"),
    point("last.2", dropout=0.1, value_head_width=5, normaliser="none"),
]


def setup_of(stores: Stores, **changes: Any) -> SweepSetup:
    fields: dict[str, Any] = {
        "train": stores[0],
        "valid": stores[1],
        "seeds": [5, 6],
        "evaluation": EvaluationSettings(bootstrap_rounds=100, train_holdout=0.2),
        "save_checkpoint_every": 0.5,
        "device": CPU,
        "mixed_precision": True,
        "cache_dir": stores[0].path,
    }
    return SweepSetup(**(fields | changes))


def run(stores: Stores, folder: Path, **changes: Any) -> SweepResult:
    own = {field.name for field in dataclasses.fields(SweepSetup)}
    setup = setup_of(stores, **{name: changes.pop(name) for name in own & changes.keys()})
    arguments = {"points": POINTS, "folder": folder, "tracker": Tracker()}
    return run_sweep(setup, **(arguments | changes))


@pytest.fixture(scope="module")
def swept(
    stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SweepResult, Path, RecordingTracker]:
    folder, tracker = tmp_path_factory.mktemp("sweep"), RecordingTracker()
    return run(stores, folder, tracker=tracker), folder, tracker


@pytest.fixture
def sweep(stores: Stores, tmp_path: Path) -> Sweep:
    """Sweep one point with one seed in tmp_path/sweep."""

    def small(folder: str = "sweep", **changes: Any) -> SweepResult:
        return run(stores, tmp_path / folder, **({"points": POINTS[:1], "seeds": [5]} | changes))

    return small


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def numbers(result: SweepResult) -> dict[str, Any]:
    fields = result.to_dict()
    return {name: fields[name] for name in fields if not name.startswith("seconds")}


def accuracy_over_problems(values: Any, samples: Any) -> float:
    shares = []
    for problem in np.unique(samples.problems):
        here = samples.problems == problem
        right, wrong = values[here & samples.is_correct], values[here & ~samples.is_correct]
        shares.append((right[:, None] > wrong).mean())
    return float(np.mean(shares))


def test_heads_of_one_shape_train_together(stores: Stores) -> None:
    reader = SweepReader(setup_of(stores), FeatureMemory(device=CPU))
    candidates = [Candidate(point=one, seed=seed) for one in POINTS for seed in range(8)]
    groups = group_by_shape(candidates, reader)
    assert sorted(map(len, groups)) == [8, 8, 16, 16]  # 32 of one shape, at most 16 in a group
    assert {id(c) for group in groups for c in group} == {id(c) for c in candidates}


@pytest.mark.parametrize("place", range(len(POINTS)))
def test_a_head_of_a_sweep_is_the_head_that_train_head_trains(
    swept: tuple[SweepResult, Path, RecordingTracker], stores: Stores, tmp_path: Path, place: int
) -> None:
    alone = train_head(
        train=stores[0],
        valid=None,
        training=POINTS[place].training,
        sampling=SAMPLING,
        checkpoint=CheckpointSettings(save_dir="x", save_checkpoint_every=None),
        device=CPU,
        seed=6,
        train_holdout=0.2,
        run_config={},
        checkpoint_dir=tmp_path / "run",
        tracker=Tracker(),
    )
    result = next(one for one in swept[0].points if one.varied == POINTS[place].varied)
    history = next(
        history
        for _, parameters, history in swept[2].children
        if parameters == {**POINTS[place].varied, "seed": "6"}
    )
    step, metrics = history[-2]  # the last validation, at the last step
    assert step == alone.num_steps == result.num_steps
    assert alone.final is not None
    head, halves = load_head(alone.final), split_validation(stores[1])
    values = head.score(stores[1])[halves.choose.table_rows]
    expected = accuracy_over_problems(values, halves.choose)
    assert metrics["choose/accuracy_over_problems"] == pytest.approx(expected)


def test_the_winner_is_chosen_on_one_half_and_measured_on_the_other(
    swept: tuple[SweepResult, Path, RecordingTracker], stores: Stores
) -> None:
    result, folder, _ = swept
    halves = split_validation(stores[1])
    head = load_head(folder / "winner")
    values = head.score(stores[1])
    choose, report = (
        accuracy_over_problems(values[half.table_rows], half)
        for half in (halves.choose, halves.report)
    )
    chosen = [one.choose.over_problems.estimate for one in result.points if one.choose]
    assert chosen[0] == max(chosen) == pytest.approx(choose)
    assert result.report.over_problems.estimate == pytest.approx(report)
    assert head.record.num_members == 2
    assert head.record.selection["varied"] == result.points[0].varied
    assert head.record.train_holdout is not None
    assert json.loads((folder / "sweep.json").read_text())["num_heads"] == 2 * len(POINTS)


def test_every_head_is_a_child_run(swept: tuple[SweepResult, Path, RecordingTracker]) -> None:
    children = swept[2].children
    assert len({name for name, _, _ in children}) == 2 * len(POINTS)
    name, parameters, history = children[0]
    assert parameters["seed"] in name
    assert {"train/loss", "choose/accuracy_over_problems"} <= set(history[0][1])


def test_a_finished_sweep_does_nothing_when_it_runs_again(sweep: Sweep, tmp_path: Path) -> None:
    first = sweep()
    before = files_of(tmp_path)
    second = sweep(tracker=(tracker := RecordingTracker()))
    assert (first.was_up_to_date, second.was_up_to_date) == (False, True)
    assert second.to_dict() == first.to_dict()
    assert tracker.statuses == []
    assert files_of(tmp_path) == before
    assert not sweep(overwrite=True).was_up_to_date


@pytest.mark.parametrize("lost", ["winner/head.safetensors", "sweep.json", "run.json"])
def test_a_finished_sweep_that_lost_a_file_runs_again(
    sweep: Sweep, tmp_path: Path, lost: str
) -> None:
    first = sweep()
    (tmp_path / "sweep" / lost).unlink()
    second = sweep()
    assert not second.was_up_to_date
    assert numbers(second) == numbers(first)
    assert (tmp_path / "sweep" / lost).exists()


EXCLUDING = DataSamplingSettings(
    pairwise=PairwiseSettings(n_pairs=150, exclude_problems=["problem-003"])
)


@pytest.mark.parametrize(
    "changes",
    [
        {"points": [point("mean.1", dropout=0.2)]},
        {"points": [point("mean.1", EXCLUDING, dropout=0.1)]},
        {"seeds": [7]},
        {"save_checkpoint_every": None},
        {"evaluation": EvaluationSettings(bootstrap_rounds=60, train_holdout=0.2)},
    ],
    ids=["training", "pairs", "seeds", "save_checkpoint_every", "evaluation"],
)
def test_a_sweep_with_other_settings_replaces_the_one_in_its_folder(
    sweep: Sweep, changes: dict[str, Any]
) -> None:
    sweep()
    assert not sweep(**changes).was_up_to_date
    assert sweep(**changes).was_up_to_date


def test_a_killed_sweep_keeps_the_earlier_result_and_runs_from_the_start(
    sweep: Sweep, tmp_path: Path
) -> None:
    expected = sweep("undisturbed")
    earlier = sweep(seeds=[6])
    with pytest.raises(Killed):
        sweep(progress=kill, tracker=(tracker := RecordingTracker()))
    assert tracker.statuses == ["KILLED"]
    kept = sweep(seeds=[6])
    assert kept.was_up_to_date
    assert numbers(kept) == numbers(earlier)
    assert numbers(sweep()) == numbers(expected)
    assert not (tmp_path / "sweep" / "new").exists()


def test_an_overwrite_that_fails_at_its_end_keeps_the_earlier_winner(
    sweep: Sweep, tmp_path: Path
) -> None:
    class FullDisk(RecordingTracker):
        def log_files(self, files: Any, folder: str) -> None:
            raise OSError(28, "No space left on device")

    sweep()
    winner = tmp_path / "sweep/winner/head.safetensors"
    before = winner.read_bytes()
    with pytest.raises(OSError, match="No space"):
        sweep(overwrite=True, tracker=FullDisk())
    assert winner.read_bytes() == before
    assert sweep().was_up_to_date


@pytest.mark.parametrize("batching", [{}, {"batching": "problems", "problem_pairs": "all"}])
@pytest.mark.parametrize("place", [0, 1])
def test_a_head_that_diverges_does_not_affect_the_others_of_its_group(
    sweep: Sweep, batching: dict[str, str], place: int
) -> None:
    """Problems have different numbers of pairs, so that shorter batches are padded."""
    fine = point("mean.1", **batching)
    hopeless = point("mean.1", value_head_learning_rate=1e30, max_grad_norm=None, **batching)
    points = [fine, fine]
    points[place] = hopeless
    seeds = [5, 6]
    result = sweep(points=points, seeds=seeds)
    by_name = {one.name: one for one in result.points}
    assert by_name[hopeless.name].of_seeds == (None, None)
    assert by_name[hopeless.name].choose is None
    alone = sweep("alone", points=[fine], seeds=seeds)
    assert by_name[fine.name].of_seeds == pytest.approx(alone.points[0].of_seeds, abs=0.03)


def test_heads_on_segments_train_beside_others_as_they_do_alone(tmp_path: Path) -> None:
    stores = tuple(
        write_store(tmp_path / name, segments=4, signal=1.0, seed=seed, fingerprint=name)
        for seed, name in enumerate(("train", "valid"))
    )
    fast = {"value_head_learning_rate": 0.02}
    points = [
        point("mean.2", **fast, value_head_width=4),
        point("segments.2", **fast, value_head_type="gated"),
        point("segments.2", **fast, value_head_type="attention"),
        point("mean.2", **fast, value_head_width=4, prefixes=(0.5, 1.0)),
        point("mean.2", **fast, value_head_type="linear", centre="problem"),
    ]
    by_name = {one.name: one for one in run(stores, tmp_path / "all", points=points).points}
    assert len(by_name) == len(points)
    for place, one in enumerate(points):
        alone = run(stores, tmp_path / f"alone-{place}", points=[one]).points[0]
        assert by_name[one.name].of_seeds == pytest.approx(alone.of_seeds, abs=0.03)
        assert min(alone.of_seeds) > 0.55


def test_a_sweep_of_which_every_head_diverges_is_an_error(sweep: Sweep) -> None:
    hopeless = point("mean.1", value_head_learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(CriticError, match=r"training\.value_head_learning_rate"):
        sweep(points=[hopeless])


def test_heads_in_closed_form_are_compared_with_trained_heads(sweep: Sweep) -> None:
    trained = point("mean.1")
    fitted = [
        point("mean.1", value_head_type="contrast", contrast="lda"),
        point("mean.1", value_head_type="centroid"),
    ]
    by_name = {one.name: one for one in sweep(points=[trained, *fitted]).points}
    assert by_name[trained.name].of_seeds == sweep("alone", points=[trained]).points[0].of_seeds
    for one in fitted:
        (accuracy,) = by_name[one.name].of_seeds
        assert accuracy is not None
        assert accuracy > 0.6
        assert by_name[one.name].of_seeds == sweep("alone", points=[one]).points[0].of_seeds
