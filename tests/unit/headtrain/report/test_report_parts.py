"""What the report shows of a sweep and of texts, without the page around it."""

import json

import pytest

from headtrain.evaluation.samples.visible import to_visible
from headtrain.metrics.bootstrap import Interval
from headtrain.report.figures import layer_sweep
from headtrain.report.sweep import read_sweep


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("line\r\nnext", "line\nnext"),
        ("over\rwritten", "over\ufffdwritten"),
        ("\x1b[2J\x9b1m", "\ufffd[2J\ufffd1m"),
        ("\u202eabc\u2066\u200b\ufeff", "\ufffdabc\ufffd\ufffd\ufffd"),
        ("naïve Übung 中文 🙂", "naïve Übung 中文 🙂"),
        ("", ""),
    ],
)
def test_text_from_elsewhere_becomes_harmless(text, shown):
    assert to_visible(text) == shown


def sweep_file(folder, points):
    path = folder / "sweep.json"
    path.write_text(json.dumps({"points": points}))
    return path


def point(tensors, estimate):
    return {
        "tensors": tensors,
        "choose": {"over_problems": {"estimate": estimate, "low": 0.4, "high": 0.9}},
    }


def test_a_sweep_shows_the_best_of_every_set_of_tensors_by_layer(tmp_path):
    points = [
        point(["mean.12"], 0.7),
        point(["mean.12", "last.2"], 0.8),
        point(["mean.2"], 0.6),
        point(["mean.12"], 0.65),
        {"tensors": ["mean.3"], "choose": None},
    ]
    found = read_sweep(sweep_file(tmp_path, points))
    assert {name: interval.estimate for name, interval in found.items()} == {
        "mean.2": 0.6,
        "mean.12": 0.7,
        "mean.12 + last.2": 0.8,
    }
    assert list(found) == ["mean.2", "mean.12", "mean.12 + last.2"]


def test_what_is_no_layer_sweep_is_not_drawn(tmp_path):
    assert read_sweep(tmp_path / "none.json") == {}
    assert read_sweep(sweep_file(tmp_path, [point(["mean.2"], 0.6)])) == {}
    (tmp_path / "sweep.json").write_text('{"points": [{}]}')
    assert read_sweep(tmp_path / "sweep.json") == {}


def test_long_names_leave_the_sweep_figure_most_of_its_width():
    names = ("mean.2", " + ".join(f"mean.{n}" for n in range(10, 14)))
    drawn = layer_sweep({name: Interval(estimate=0.7, low=0.6, high=0.8) for name in names})
    [axes] = drawn.figure.axes
    assert axes.get_position().width > 0.55
    [_, label] = axes.get_yticklabels()
    assert " ".join(label.get_text().split()) == names[0]
