"""The pairs planned before featurizing are those that training draws."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from headtrain.pairs.training_plan import TrainingPlan, plan_training, to_planned

from featurize.data.token_counts import count_tokens, counts_path, write_counts
from featurize.run.selection import Selection, select
from featurize.store import FeatureStore, FeatureStoreError, PlannedPairs, mark_pairs, read_pairs
from headtrain.settings import DataSamplingSettings, PairwiseSettings
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store
from tests.support.tiny_models import make_tokenizer


def sampling(n_pairs: int = 6, **pairwise: Any) -> DataSamplingSettings:
    return DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=n_pairs, **pairwise))


def chooser(settings: DataSamplingSettings, **given: Any) -> Any:
    terms: dict[str, Any] = {"excluded": (), "train_holdout": 0.0} | given

    def choose(table: pa.Table, count_outputs: Any) -> Selection:
        if settings.pairwise.length_matched:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, settings, **terms)
        return Selection(pairs=to_planned(plan, settings, **terms), also=plan.held_out)

    return choose


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
    "settings",
    [
        sampling(),
        sampling(4, strategy="uniform", max_pairs_per_problem=1),
        sampling(5, difficulties={"1": 1, "2": 0.5, "5": 1}, exclude_problems=["p5"]),
        sampling(7, length_matched=True, length_bin_tokens=40),
    ],
)
@pytest.mark.parametrize("train_holdout", [0.0, 0.3])
def test_a_store_made_for_pairs_gives_these_pairs(
    tmp_path: Path, train: str, settings: DataSamplingSettings, train_holdout: float
) -> None:
    whole = FeatureStore.open(write_store(make_plan(tmp_path, train))).samples
    (tmp_path / "store").rename(tmp_path / "whole")
    choose = chooser(settings, train_holdout=train_holdout)
    plan = make_plan(tmp_path, train, choose=choose)
    part = FeatureStore.open(write_store(plan)).samples
    planned, drawn = (
        plan_training(table, settings, train_holdout=train_holdout) for table in (part, whole)
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


def test_other_settings_draw_from_what_is_there_and_say_so(
    tmp_path: Path, train: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(tmp_path, train, choose=chooser(sampling(6)))
    samples = FeatureStore.open(write_store(plan)).samples
    with caplog.at_level(logging.WARNING):
        plan_training(samples, sampling(6))
        assert caplog.text == ""
        fewer = plan_training(samples, sampling(3))
    assert len(fewer.pairs.correct) == 3
    assert "made with n_pairs 6)" in caplog.text


def test_plans_that_touch_the_same_samples_make_different_stores(
    tmp_path: Path, train: str
) -> None:
    everything = [
        make_plan(tmp_path, train, choose=chooser(settings))
        for settings in (sampling(10**6), sampling(10**6, strategy="uniform"))
    ]
    assert len(everything[0].index) == len(everything[1].index)
    assert everything[0].fingerprint != everything[1].fingerprint
    again = make_plan(tmp_path, train, choose=chooser(sampling(10**6)))
    assert again.fingerprint == everything[0].fingerprint


def test_pairs_can_be_read_again_from_their_marks() -> None:
    table = pa.table({"is_correct": [False, True, None, True, False]})
    pairs = PlannedPairs(
        correct=np.array([3, 1, 3]), incorrect=np.array([0, 0, 4]), record={"seed": 1}
    )
    marked = mark_pairs(table, pairs)
    assert marked["pairs"].to_pylist() == [[0, 1], [1], [], [0, 2], [2]]
    found = read_pairs(marked)
    assert found is not None
    assert (found.correct.tolist(), found.incorrect.tolist()) == ([3, 1, 3], [0, 0, 4])
    assert found.record == {"seed": 1}
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert read_pairs(table) is None


def test_a_table_that_lost_samples_of_a_pair_is_refused() -> None:
    table = pa.table({"is_correct": [True, False, True, False]})
    pairs = PlannedPairs(correct=np.array([0, 2]), incorrect=np.array([1, 3]), record={})
    with pytest.raises(FeatureStoreError, match="does not hold all samples of the pairs"):
        read_pairs(mark_pairs(table, pairs).slice(1))


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
