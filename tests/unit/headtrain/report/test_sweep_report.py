"""The table, the winner and the figures of a sweep."""

import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from configs.console import console
from headtrain.metrics.bootstrap import Interval
from headtrain.report.sweep import draw_sweep, points_table, read_layers, winner_rows
from headtrain.sweep.result import Accuracy, PointResult, SweepResult, read_result


def accuracy(estimate: float) -> Accuracy:
    interval = Interval(estimate=estimate, low=estimate - 0.1, high=estimate + 0.1)
    return Accuracy(over_pairs=estimate, over_problems=interval, num_problems=8)


def point(*tensors: str, estimate: float | None, **varied: str) -> PointResult:
    return PointResult(
        varied={"features": "+".join(tensors), **varied},
        tensors=tensors,
        seeds=(5, 6),
        best_steps=(3, 4),
        num_steps=9,
        of_seeds=(estimate, None),
        choose=None if estimate is None else accuracy(estimate),
        holdout=None,
    )


def result_of(*points: PointResult) -> SweepResult:
    return SweepResult(
        points=points,
        report=accuracy(0.615),
        num_heads=2 * len(points),
        seconds=3.0,
        seconds_training=2.0,
        confidence=0.95,
    )


RESULT = result_of(
    point("mean.12", "last.2", estimate=0.8, dropout="0.1"),
    point("mean.12", estimate=0.7, dropout="0.1"),
    point("mean.12", estimate=0.65, dropout="0.3"),
    point("mean.2", estimate=0.6, dropout="0.1"),
    point("mean.3", estimate=None, dropout="0.1"),
)


def write(folder: Path, result: SweepResult) -> Path:
    path = folder / "sweep.json"
    path.write_text(json.dumps(result.to_dict()))
    return path


def test_a_written_result_is_read_back(tmp_path: Path) -> None:
    assert read_result(SweepResult, write(tmp_path, RESULT)) == RESULT


def test_the_table_warns_that_the_best_of_many_is_biased() -> None:
    table = points_table(RESULT)
    assert table.row_count == 5
    assert "10 heads at 5 points" in str(table.title)
    assert "biased up" in str(table.title)
    rows = winner_rows(RESULT)
    assert rows["winner"] == "features=mean.12+last.2 dropout=0.1"
    assert rows["seeds averaged"] == 1
    assert "0.615" in rows["accuracy on the 8 problems that did not"]


@pytest.mark.parametrize("value", ["0.0001{}", "[easy{}]", "[/x]{}"])
def test_points_can_be_distinguished_in_a_narrow_terminal(value: str) -> None:
    values = [value.format(place) for place in range(len(RESULT.points))]
    points = tuple(
        dataclasses.replace(one, varied={"training.value_head_learning_rate": value})
        for one, value in zip(RESULT.points, values, strict=True)
    )
    with console().capture() as shown:
        console().print(points_table(dataclasses.replace(RESULT, points=points)))
    assert all(value in shown.get() for value in values)


@pytest.mark.parametrize("first", [0, 1])
def test_the_title_fits_a_narrow_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_sweep(result_of(RESULT.points[first]), tmp_path / "accuracy.png")
    [figure] = drawn
    figure.canvas.draw()
    [title] = figure.texts
    box = title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert "mean of 2 seeds" in " ".join(title.get_text().split())


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    with Image.open(draw_sweep(RESULT, tmp_path / "deep" / "figure.png")) as picture:
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or []) > 20


def test_the_report_shows_the_best_of_every_set_of_tensors_by_layer(tmp_path: Path) -> None:
    found = read_layers(write(tmp_path, RESULT))
    assert [(name, interval.estimate) for name, interval in found.items()] == [
        ("mean.2", 0.6),
        ("mean.12", 0.7),
        ("mean.12 + last.2", 0.8),
    ]


def test_a_file_without_a_sweep_of_layers_is_not_drawn(tmp_path: Path) -> None:
    assert read_layers(tmp_path / "none.json") == {}
    assert read_layers(write(tmp_path, result_of(RESULT.points[0]))) == {}
    (tmp_path / "sweep.json").write_text('{"points": [{}]}')
    assert read_layers(tmp_path / "sweep.json") == {}
