from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from headtrain.pairs.training_data import read_training_data

from featurize.errors import CriticError
from headtrain.pairs.holdout import choose_holdout, labelled_problems
from headtrain.settings import DataSamplingSettings, PairwiseSettings
from headtrain.sweep.inputs import split_validation
from tests.support.synthetic_stores import write_store

NAMES = [f"problem-{number}" for number in range(40)]


@pytest.mark.parametrize(("share", "number"), [(0.25, 10), (0.001, 1), (0.999, 39)])
def test_the_share_of_the_problems_is_held_out(share: float, number: int) -> None:
    holdout = choose_holdout(NAMES, share)
    assert holdout is not None
    assert sum(holdout.contains(name) for name in NAMES) == number


def test_order_and_repetition_do_not_matter_and_more_problems_move_few() -> None:
    holdout = choose_holdout(NAMES, 0.25)
    assert choose_holdout([*NAMES[::-1], *NAMES], 0.25) == holdout
    more = choose_holdout([*NAMES, "another"], 0.25)
    assert holdout is not None
    assert more is not None
    assert sum(holdout.contains(name) != more.contains(name) for name in NAMES) <= 1


def test_nothing_is_held_out_of_too_few() -> None:
    assert choose_holdout(NAMES, 0.0) is None
    with pytest.raises(CriticError, match=r"train_holdout 0\.5 needs two train problems"):
        choose_holdout(["only"], 0.5)


def test_a_mask_says_it_row_by_row() -> None:
    holdout = choose_holdout(NAMES, 0.25)
    assert holdout is not None
    column = pa.chunked_array([NAMES[::2], NAMES[1::2]])
    expected = [holdout.contains(name) for name in [*NAMES[::2], *NAMES[1::2]]]
    assert holdout.mask(column).tolist() == expected


def test_no_pair_is_of_a_problem_held_out_or_excluded(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", num_problems=20)
    ids = np.array(store.samples["problem_id"].to_pylist())
    sampling = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=9999))
    excluded = ["problem-000", "problem-001"]
    data = read_training_data(store, sampling, excluded=excluded, train_holdout=0.5)
    assert data.holdout is not None
    trained = set(ids[data.samples.table_rows])
    held = set(ids[data.held_out.table_rows])
    assert len(trained) == len(held) == 9
    assert not trained & held
    assert not (trained | held) & set(excluded)
    assert all(data.holdout.contains(name) for name in held)
    assert not any(data.holdout.contains(name) for name in trained)
    found = data.describe()
    assert (found["num_held_out"], found["num_left_out"]) == (9 * 8, 2 * 8)
    assert found["num_pairs"] == 9 * 16


def test_the_digest_of_the_pairs_tells_plans_apart(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    digests = {
        read_training_data(store, DataSamplingSettings(seed=seed)).checksum() for seed in (1, 1, 2)
    }
    assert len(digests) == 2


def test_only_problems_with_both_labels_count(tmp_path: Path) -> None:
    labels = [place < 8 or None if place < 16 else bool(place % 2) for place in range(96)]
    store = write_store(tmp_path / "store", labels=labels)
    assert labelled_problems(store.samples) == [f"problem-{n:03d}" for n in range(2, 12)]


def test_the_halves_are_whole_problems_of_like_number(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", num_problems=13)
    halves = split_validation(store)
    ids = np.array(store.samples["problem_id"].to_pylist())
    choose, report = (set(ids[half.table_rows]) for half in (halves.choose, halves.report))
    assert (len(choose), len(report)) == (7, 6)
    assert not choose & report
    assert len(halves.choose) == 7 * 8
