"""Stores that hold only the samples of planned pairs."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.data.token_counts import count_tokens, counts_path, write_counts
from featurize.run.plan import Selection, select
from featurize.store import FeatureStore
from featurize.store.samples import PlannedPairs
from headtrain.pairs.plan import TrainingPlan, pair_planner, plan_training, read_training_data
from headtrain.settings import DataSamplingSettings
from tests.support import synthetic_stores
from tests.support.pair_tables import settings
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store
from tests.support.tiny_models import make_tokenizer


def task_ids(table: pa.Table, plan: TrainingPlan) -> list[tuple[str, str]]:
    ids = table["task_id"].to_pylist()
    pairs = zip(plan.pairs.correct.tolist(), plan.pairs.incorrect.tolist(), strict=True)
    return [(ids[correct], ids[incorrect]) for correct, incorrect in pairs]


@pytest.fixture
def train(tmp_path: Path) -> str:
    """Samples whose tokens have been counted: the backbone of these plans has no tokenizer."""
    path = write_rows(tmp_path / "train.jsonl", make_rows(8, 9))
    plan = make_plan(tmp_path, path)
    counts = count_tokens(plan.index, make_tokenizer())
    write_counts(counts_path(plan.job.cache_dir, plan.index, plan.source.tokenizer_digest), counts)
    return path


@pytest.mark.parametrize(
    "sampling",
    [
        settings(),
        settings(4, strategy="uniform", max_pairs_per_problem=1),
        settings(5, difficulties={"1": 1, "2": 0.5, "5": 1}, exclude_problems=["p5"]),
        settings(7, length_matched=True, length_bin_tokens=40),
    ],
)
@pytest.mark.parametrize("train_holdout", [0.0, 0.3])
def test_a_store_made_for_pairs_gives_these_pairs(
    tmp_path: Path, train: str, sampling: DataSamplingSettings, train_holdout: float
) -> None:
    whole = FeatureStore.open(write_store(make_plan(tmp_path, train))).samples
    (tmp_path / "store").rename(tmp_path / "whole")
    choose = pair_planner(sampling, train_holdout)
    plan = make_plan(tmp_path, train, choose=choose)
    part = FeatureStore.open(write_store(plan)).samples
    planned, drawn = (
        plan_training(table, sampling, train_holdout=train_holdout) for table in (part, whole)
    )
    assert task_ids(part, planned) == task_ids(whole, drawn)
    assert planned.pairs.num_possible == drawn.pairs.num_possible
    assert planned.holdout == drawn.holdout
    held = [set(table["task_id"].take(pa.array(one.held_out)).to_pylist())
            for table, one in ((part, planned), (whole, drawn))]  # fmt: skip
    assert held[0] == held[1]
    touched = {name for pair in task_ids(part, planned) for name in pair}
    assert set(part["task_id"].to_pylist()) == touched | held[0]
    assert plan.num_pairs == len(planned.pairs.correct)
    assert plan.describe()["not selected"] == whole.num_rows - part.num_rows


def test_other_settings_draw_from_what_is_there_and_warn(
    tmp_path: Path, train: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(tmp_path, train, choose=pair_planner(settings(6)))
    samples = FeatureStore.open(write_store(plan)).samples
    with caplog.at_level(logging.WARNING):
        plan_training(samples, settings(6))
        assert caplog.text == ""
        fewer = plan_training(samples, settings(3))
    assert len(fewer.pairs.correct) == 3
    assert "n_pairs 6)" in caplog.text


def test_plans_of_the_same_samples_make_different_stores(tmp_path: Path, train: str) -> None:
    balanced, uniform, again = (
        make_plan(tmp_path, train, choose=pair_planner(settings(10**6, strategy=strategy)))
        for strategy in ("balanced", "uniform", "balanced")
    )
    assert len(balanced.index) == len(uniform.index)
    assert balanced.fingerprint != uniform.fingerprint
    assert again.fingerprint == balanced.fingerprint


def test_selected_rows_keep_their_order_and_their_fingerprint(tmp_path: Path, train: str) -> None:
    index = make_plan(tmp_path, train).index
    labels = index.table["is_correct"].to_pylist()
    correct, incorrect = labels.index(True), labels.index(False)
    pairs = PlannedPairs(correct=np.array([correct]), incorrect=np.array([incorrect]), record={})
    chosen = select(index, Selection(pairs=pairs, also=np.array([len(index) - 1])))
    rows = sorted({correct, incorrect, len(index) - 1})
    ids = index.table["task_id"].to_pylist()
    assert chosen.table["task_id"].to_pylist() == [ids[row] for row in rows]
    assert chosen.content_fingerprint != index.content_fingerprint
    everything = Selection(pairs=pairs, also=np.arange(len(index)))
    assert select(index, everything).content_fingerprint == index.content_fingerprint


def test_planned_pairs_that_are_cut_to_the_same_tokens_are_left_out(tmp_path: Path) -> None:
    rows = make_rows(3, 6)
    for row in rows:
        row["is_correct"] = bool(int(row["task_id"][-1]) % 2)
        row["output"] = f"{row['task_id']} = 1\n{row['output']}"
    path = write_rows(tmp_path / "rows.jsonl", rows)
    store = FeatureStore.open(
        write_store(make_plan(tmp_path, path, choose=pair_planner(settings(9))))
    )
    whole = read_training_data(store, settings(9))
    assert len(whole.plan.correct) == 9
    same = store.samples["feature_row"].to_numpy().copy()
    pair = whole.samples.table_rows[[whole.plan.correct[0], whole.plan.incorrect[0]]]
    same[pair[0]] = same[pair[1]]
    cut = synthetic_stores.replace_column(store, "feature_row", pa.array(same))
    data = read_training_data(cut, settings(9))
    assert data.plan.num_equal == 1
    assert len(data.plan.correct) == 8


def test_texts_with_both_labels_are_no_pair_in_an_index(tmp_path: Path) -> None:
    rows = make_rows(2, 4)
    for number, row in enumerate(rows):
        row |= {"output": "same" if number % 4 < 2 else f"x{number}", "is_correct": number % 2 == 0}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    plan = make_plan(tmp_path, path, choose=pair_planner(settings(10**6)))
    assert plan.num_pairs == 2 * (4 - 1)
    assert plan.selection is not None
    assert plan.selection.pairs is not None
    assert plan.selection.pairs.record["num_equal"] == 2
