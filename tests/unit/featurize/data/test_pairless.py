"""A dataset without any pair is warned of before anything is computed."""

import logging
from pathlib import Path
from typing import Any

import pytest

from featurize.data.index import DatasetIndex, why_no_pairs
from tests.support.tiny_jobs import make_plan, write_rows


def index_of(folder: Path, *rows: dict[str, Any]) -> DatasetIndex:
    plain = {"instruction": "Add.", "problem_id": "p"}
    numbered = [{**plain, "output": f"x = {n}"} | row for n, row in enumerate(rows)]
    return DatasetIndex.build(str(write_rows(folder / "rows.jsonl", numbered)), folder / "cache")


def test_a_dataset_without_labels_is_reported_with_the_columns_that_may_have_them(tmp_path: Path):
    reason = why_no_pairs(index_of(tmp_path, {"reward": 1.0, "votes": 7, "info": {"ok": True}}))
    assert reason is not None
    assert "none of the 1 samples has a label" in reason
    assert "rows.jsonl:1: 'reward' is 1.0, 'info.ok' is true)" in reason
    assert "--map is_correct=" in reason


@pytest.mark.parametrize(
    "others",
    [{}, {"problem_id": "q"}, {"instruction": "Add.", "metadata": {"language": "c"}}],
    ids=["one label", "two problems", "two languages"],
)
def test_labels_that_never_meet_in_a_problem_and_language_make_no_pair(
    tmp_path: Path, others: dict[str, Any]
):
    second = {"is_correct": False} | others if others else {"is_correct": None}
    reason = why_no_pairs(index_of(tmp_path, {"is_correct": True}, second))
    assert reason is not None
    assert f"1 correct and {int(bool(others))} incorrect" in reason


def test_one_problem_with_both_labels_is_enough(tmp_path: Path):
    rows = [{"is_correct": True}, {"is_correct": False}, {"problem_id": "q"}]
    assert why_no_pairs(index_of(tmp_path, *rows)) is None


def test_the_plan_warns_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write_rows(tmp_path / "rows.jsonl", [{"instruction": "Add.", "output": "a"}])
    plan = make_plan(tmp_path, path)
    with caplog.at_level(logging.WARNING):
        plan.check_samples(strict=False)
    assert "--map is_correct=" in caplog.text
