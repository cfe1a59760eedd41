from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from headtrain.features.inputs import choose_columns, read_head_inputs
from headtrain.features.samples import read_labelled_samples
from headtrain.head.model import HeadModel
from headtrain.training.validation import choose_whole_problems, read_validation
from tests.support.synthetic_stores import write_store

CPU = torch.device("cpu")


def test_accuracy_is_that_of_comparing_every_pair(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", signal=0.3)
    columns = choose_columns(store, None, None)
    model = HeadModel(32, "mlp", dropout=0.9).train()
    measured = read_validation(store, columns, limit=None, seed=0, device=CPU).measure(model)
    inputs = read_head_inputs(store, columns)
    with torch.no_grad():
        values = model.eval()(inputs.features).squeeze(-1).numpy()[inputs.rows]
    wins = []
    for problem in np.unique(inputs.samples.problems):
        here = inputs.samples.problems == problem
        right = values[here & inputs.samples.is_correct]
        wrong = values[here & ~inputs.samples.is_correct]
        wins.append(right[:, None] > wrong)
    assert measured.over_problems == pytest.approx(np.mean([won.mean() for won in wins]))
    assert measured.over_pairs == pytest.approx(np.concatenate(wins, axis=None).mean())


def test_measuring_leaves_the_model_in_training(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    validation = read_validation(
        store, choose_columns(store, None, None), limit=None, seed=0, device=CPU
    )
    model = HeadModel(32, "mlp", dropout=0.9).train()
    assert validation.measure(model) == validation.measure(model)
    assert model.training


def test_a_head_that_says_the_same_about_everything_is_at_chance(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    model = HeadModel(32, "linear")
    model.head.linear.weight.data.zero_()
    columns = choose_columns(store, None, None)
    measured = read_validation(store, columns, limit=None, seed=0, device=CPU).measure(model)
    assert measured == (0.5, 0.5)


@pytest.mark.parametrize("limit", [8, 20, 50, 95])
def test_a_limit_takes_whole_problems(tmp_path: Path, limit: int) -> None:
    samples = read_labelled_samples(write_store(tmp_path / "store"))
    kept = choose_whole_problems(samples, limit, seed=0)
    assert len(kept) == limit // 8 * 8
    assert set(np.bincount(samples.problems[kept])) <= {0, 8}
    np.testing.assert_array_equal(kept, choose_whole_problems(samples, limit, seed=0))


def test_another_seed_takes_other_problems(tmp_path: Path) -> None:
    samples = read_labelled_samples(write_store(tmp_path / "store"))
    chosen = {tuple(choose_whole_problems(samples, 40, seed)) for seed in range(5)}
    assert len(chosen) > 1


def test_a_limit_below_every_problem_takes_the_smallest(tmp_path: Path) -> None:
    samples = read_labelled_samples(write_store(tmp_path / "store"))
    assert len(choose_whole_problems(samples, 1, seed=0)) == 8


def test_problems_of_one_label_are_never_taken(tmp_path: Path) -> None:
    labels = [place < 8 or bool(place % 2 and place < 80) for place in range(96)]
    samples = read_labelled_samples(write_store(tmp_path / "store", labels=labels))
    kept = choose_whole_problems(samples, None, seed=0)
    assert len(kept) == 72  # neither the first problem nor the last two


def test_a_store_without_a_useful_problem_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", labels=[True] * 96)
    with pytest.raises(CriticError, match="no problem has both a correct and an incorrect output"):
        read_validation(store, choose_columns(store, None, None), limit=9, seed=0, device=CPU)
