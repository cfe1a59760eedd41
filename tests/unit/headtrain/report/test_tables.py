"""Tables in a terminal of 80 columns: a line for each row, no cell is broken in two."""

import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from configs.console import columns_table, rows_table
from featurize.data.audit.shortcuts import LengthAudit, LengthHistogram, PairLengths, show_lengths
from headtrain.metrics.bootstrap import Interval
from headtrain.report.sweep import points_table
from headtrain.report.tables import judges_table, values_table
from headtrain.settings import EvaluationSettings
from headtrain.sweep.result import Accuracy, PointResult, SweepResult
from headtrain.training.run import TrainResult
from tests.support.simulated_splits import evaluated, simulated


def lines_of(table):
    console = Console(width=80, record=True, file=None)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    return [line for line in lines if line.startswith(("│", "┃"))]


@pytest.fixture(scope="module")
def evaluation():
    splits = {"train": simulated(0), "train_holdout": simulated(1), "valid": simulated(2)}
    shortcuts = {
        name: {judge: np.arange(len(split)) * 1.0 for judge in ("shorter_is_correct", "author")}
        for name, split in splits.items()
    }
    settings = EvaluationSettings(bootstrap_rounds=20)
    return evaluated(splits, shortcuts=shortcuts, settings=settings)


def test_a_finished_evaluation_is_shown_without_torch():
    code = (
        "import sys, headtrain.evaluation.files, headtrain.evaluation.results, headtrain.report."
        "tables; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_evaluation_has_a_line_for_each_row(evaluation):
    judges = judges_table(evaluation, "valid", intervals=False)
    values = values_table(evaluation, "valid", intervals=False)
    for table in (judges, values):
        assert len(lines_of(table)) == 1 + table.row_count


def test_the_points_of_a_sweep_have_a_line_each():
    interval = Interval(estimate=0.7012, low=0.6512, high=0.7512)
    accuracy = Accuracy(over_pairs=0.7, over_problems=interval, num_problems=1234)
    point = PointResult(
        varied={"features": "mean.24", "training.dropout": "0.3"},
        tensors=("mean.24",),
        seeds=(1, 2, 3),
        best_steps=(1, 2, 3),
        num_steps=3,
        of_seeds=(0.701, 0.69, 0.712),
        choose=accuracy,
        holdout=accuracy,
    )
    result = SweepResult(
        points=(point, point),
        report=accuracy,
        num_heads=6,
        seconds=1.0,
        seconds_training=1.0,
        confidence=0.95,
    )
    lines = lines_of(points_table(result))
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == 2
    assert "0.701 [0.651, 0.751]" in rows[0]


def test_the_result_of_a_training_has_a_line_for_each_row_and_no_noise():
    result = TrainResult(
        best=None,
        final=None,
        num_steps=12_345,
        num_pairs=1_000_000,
        num_possible_pairs=123_456_789,
        num_problems=12_345,
        num_samples=2_345_678,
        num_unlabelled=1,
        num_left_out=0,
        num_held_out=0,
        mean_length_difference=-1.5,
        longer_is_correct=0.48,
        train_metrics={"loss": 0.5, "learning_rate": 0.0},
        best_step=None,
        valid_over_problems=None,
        valid_over_pairs=None,
        holdout_over_problems=None,
        holdout_over_pairs=None,
        stopped_early=True,
        seconds=12.0,
        tracking_run_id=None,
        train_over_problems=0.9,
    )
    rows = result.describe()
    assert len(lines_of(rows_table("head", rows))) == len(rows)
    assert rows["train accuracy over problems"] == 0.9
    assert rows["samples without a label"] == 1
    assert not [name for name in rows if "learning_rate" in name or "valid" in name]


def test_lengths_have_a_line_for_each_number():
    pairs = PairLengths(num_pairs=123_456_789, mean_difference=-1234.5, longer_over_pairs=0.5)
    histogram = LengthHistogram(edges=(), correct=(), incorrect=())
    audits = [
        LengthAudit(
            unit=unit,
            mean_correct=12_345.678,
            mean_incorrect=12_345.678,
            pairs=pairs,
            matched_bin=width,
            matched=pairs,
            histogram=histogram,
        )
        for unit, width in (("characters", 96), ("tokens", 32))
    ]
    [table] = show_lengths(audits).tables
    shown = columns_table(table.title, table.columns, table.rows)
    assert len(lines_of(shown)) == 1 + len(table.rows)
