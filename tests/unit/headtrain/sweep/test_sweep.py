import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.console import console
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.head.checkpoint import load_head
from headtrain.report.sweep_figure import draw_sweep
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    PairwiseSettings,
    TrainingSettings,
)
from headtrain.sweep.grid import combine, parse_axis, to_overrides
from headtrain.sweep.halves import split_in_two
from headtrain.sweep.points import SweepPoint, SweepReader
from headtrain.sweep.result import SweepResult
from headtrain.sweep.run import run_sweep
from headtrain.sweep.stacks import stack_up
from headtrain.sweep.tables import points_table, winner_rows
from headtrain.sweep.trained import Candidate
from headtrain.tracking import NullTracker
from headtrain.training.train import train_head
from tests.support.synthetic_stores import write_store

CPU = torch.device("cpu")
TENSORS = {"mean.1": 16, "mean.2": 16, "last.2": 16}
SAMPLING = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=150))


class RecordingTracker(NullTracker):
    def __init__(self) -> None:
        self.children: list[tuple[str, dict[str, str], list[Any]]] = []

    def log_child(self, name: str, parameters: Any, history: Any) -> None:
        self.children.append((name, dict(parameters), list(history)))


def point(features: str, **settings: Any) -> SweepPoint:
    training = TrainingSettings(
        features=features.split("+"), n_epochs=2, batch_size=8, likelihood=False, **settings
    )
    return SweepPoint(
        varied={"features": features, **{k: str(v) for k, v in settings.items()}},
        training=training,
        sampling=SAMPLING,
        run_config={"training": {"features": features}},
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, FeatureStore]:
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


@pytest.fixture(scope="module")
def swept(
    stores: tuple[FeatureStore, FeatureStore], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SweepResult, Path, RecordingTracker]:
    folder, tracker = tmp_path_factory.mktemp("sweep"), RecordingTracker()
    result = run_sweep(
        train=stores[0],
        valid=stores[1],
        points=POINTS,
        seeds=[5, 6],
        evaluation=EvaluationSettings(bootstrap_rounds=100, train_holdout=0.2),
        save_checkpoint_every=0.5,
        device=CPU,
        mixed_precision=True,
        folder=folder,
        tracker=tracker,
    )
    return result, folder, tracker


def accuracy_over_problems(values: Any, samples: Any) -> float:
    shares = []
    for problem in np.unique(samples.problems):
        here = samples.problems == problem
        right, wrong = values[here & samples.is_correct], values[here & ~samples.is_correct]
        shares.append((right[:, None] > wrong).mean())
    return float(np.mean(shares))


def test_heads_of_one_shape_are_stacked_and_others_are_not(
    stores: tuple[FeatureStore, FeatureStore],
) -> None:
    reader = SweepReader(*stores, split_in_two(stores[1]), train_holdout=0.0, device=CPU)
    candidates = [Candidate(point=one, seed=seed) for one in POINTS for seed in range(8)]
    stacks = stack_up(candidates, reader)
    assert sorted(len(stack) for stack in stacks) == [8, 8, 16, 16]  # 32 of one shape, 16 at most
    assert {id(c) for stack in stacks for c in stack} == {id(c) for c in candidates}


@pytest.mark.parametrize("place", range(len(POINTS)))
def test_a_head_of_a_sweep_is_the_head_that_train_head_trains(
    swept: tuple[SweepResult, Path, RecordingTracker],
    stores: tuple[FeatureStore, FeatureStore],
    tmp_path: Path,
    place: int,
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
        tracker=NullTracker(),
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
    head, halves = load_head(alone.final), split_in_two(stores[1])
    values = head.score(stores[1])[halves.choose.table_rows]
    found = accuracy_over_problems(values, halves.choose)
    assert metrics["choose/accuracy_over_problems"] == pytest.approx(found)


def test_the_winner_is_chosen_on_one_half_and_reported_on_the_other(
    swept: tuple[SweepResult, Path, RecordingTracker],
    stores: tuple[FeatureStore, FeatureStore],
) -> None:
    result, folder, _ = swept
    halves = split_in_two(stores[1])
    head = load_head(folder / "winner")
    values = head.score(stores[1])
    scores = {
        name: accuracy_over_problems(values[half.table_rows], half)
        for name, half in (("choose", halves.choose), ("report", halves.report))
    }
    choose = [one.choose for one in result.points]
    assert choose[0] is not None
    assert choose[0].over_problems.estimate == pytest.approx(scores["choose"])
    assert choose[0].over_problems.estimate == max(
        one.over_problems.estimate for one in choose if one is not None
    )
    assert result.report.over_problems.estimate == pytest.approx(scores["report"])
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


def test_the_table_says_what_the_best_of_many_is_worth(
    swept: tuple[SweepResult, Path, RecordingTracker],
) -> None:
    result = swept[0]
    table = points_table(result)
    assert table.row_count == len(POINTS)
    assert "12 heads at 6 points" in str(table.title)
    assert "flatters" in str(table.title)
    rows = winner_rows(result)
    assert (
        f"{result.report.over_problems.estimate:.3f}"
        in rows["accuracy on the 8 problems that did not"]
    )


@pytest.mark.parametrize("value", ["0.0001{}", "[easy{}]", "[/x]{}"])
def test_points_can_be_told_apart_in_a_narrow_terminal(
    swept: tuple[SweepResult, Path, RecordingTracker], value: str
) -> None:
    values = [value.format(place) for place in range(len(POINTS))]
    points = [
        dataclasses.replace(one, varied={"training.value_head_learning_rate": value})
        for one, value in zip(swept[0].points, values, strict=True)
    ]
    with console().capture() as shown:
        console().print(points_table(dataclasses.replace(swept[0], points=points)))
    assert all(value in shown.get() for value in values)


@pytest.mark.parametrize("num_tensors", [1, 2])
def test_the_title_fits_a_narrow_figure(
    swept: tuple[SweepResult, Path, RecordingTracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_tensors: int,
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    points = [one for one in swept[0].points if len(one.tensors) == num_tensors]
    draw_sweep(dataclasses.replace(swept[0], points=points[:1]), tmp_path / "accuracy.png")
    (figure,) = drawn
    figure.canvas.draw()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert "that choose; mean of 2 seeds" in " ".join(title.get_text().split())


def test_the_figure_is_a_picture(
    swept: tuple[SweepResult, Path, RecordingTracker], tmp_path: Path
) -> None:
    from PIL import Image

    with Image.open(draw_sweep(swept[0], tmp_path / "deep" / "figure.png")) as picture:
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or []) > 20


def test_a_grid_is_every_combination_of_its_values() -> None:
    axes = [
        parse_axis("training.dropout=0.1,0.3"),
        parse_axis("features=mean.12,mean.12+last.24,all"),
        parse_axis("data_sampling.pairwise.difficulties=[a, b],null"),
    ]
    points = combine(axes)
    assert len(points) == 12
    assert points[3] == {
        "training.dropout": "0.1",
        "features": "mean.12+last.24",
        "data_sampling.pairwise.difficulties": "null",
    }
    assert to_overrides(axes, points[3])[:2] == [
        "training.dropout=0.1",
        "training.features=[mean.12,last.24]",
    ]
    assert to_overrides(axes, points[4])[1] == "training.features=null"
    assert to_overrides(axes, points[2])[2] == "data_sampling.pairwise.difficulties=[a, b]"
    assert combine([]) == [{}]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["training.dropout"], "not of the form"),
        (["training.dropout=0.1,,0.2"], "not of the form"),
        (["featurize.layers=1,2"], "give that with --set"),
        (["training.dropout=0.1,0.1"], "a value twice"),
        (["features=a", "training.features=[b]"], "given twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(CriticError, match=reason):
        combine([parse_axis(text) for text in texts])
