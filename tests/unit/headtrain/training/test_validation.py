from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.evaluation.evaluate import evaluate_head
from headtrain.features.inputs import choose_columns, read_head_inputs
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import read_labelled_samples
from headtrain.head.checkpoint import load_head
from headtrain.head.model import FeatureNormaliser
from headtrain.settings import EvaluationSettings
from headtrain.training.validation import (
    Validation,
    choose_whole_problems,
    fit_decision,
    read_validation,
)
from tests.support.head_jobs import CPU, make_model
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import make_train


def read(store: FeatureStore, limit: int | None = None) -> Validation:
    return read_validation(
        store,
        choose_columns(store, None, None),
        limit=limit,
        seed=0,
        normaliser=FeatureNormaliser(32),
        memory=FeatureMemory(device=CPU),
    )


def test_accuracy_is_that_of_comparing_every_pair(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", signal=0.3)
    model = make_model(32, dropout=0.9)
    validation = read(store)
    measured = validation.measure(model)
    assert validation.measure(model) == measured  # without dropout
    assert model.training
    inputs = read_head_inputs(store, choose_columns(store, None, None))
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


def test_a_constant_head_is_at_chance(tmp_path: Path) -> None:
    model = make_model(32, head_type="linear")
    model.head.linear.weight.data.zero_()
    assert read(write_store(tmp_path / "store")).measure(model) == (0.5, 0.5)


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


def test_problems_with_one_label_are_never_taken(tmp_path: Path) -> None:
    labels = [place < 8 or bool(place % 2 and place < 80) for place in range(96)]
    samples = read_labelled_samples(write_store(tmp_path / "store", labels=labels))
    kept = choose_whole_problems(samples, None, seed=0)
    assert len(kept) == 72  # neither the first problem nor the last two


def test_a_store_without_a_useful_problem_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", labels=[True] * 96)
    with pytest.raises(CriticError, match=r"store: no problem has both .*dataset\.validation"):
        read(store, limit=9)


@pytest.mark.parametrize("train_holdout", [0.0, 0.25])
def test_finished_heads_have_the_decision_that_eval_finds(
    tmp_path: Path, train_holdout: float
) -> None:
    result = make_train(tmp_path)("run", train_holdout=train_holdout)
    stores = {name: FeatureStore.open(tmp_path / name) for name in ("train", "valid")}
    settings = EvaluationSettings(bootstrap_rounds=100)
    for folder in (result.best, result.final):
        assert folder is not None
        head = load_head(folder)
        judged = evaluate_head(head, stores, settings)
        assert head.record.decision == judged.evaluation.decision
        valid = {"valid": stores["valid"]}
        alone = evaluate_head(head, valid, settings, decision=head.record.decision)
        numbers = [found.evaluation.splits["valid"].numbers for found in (judged, alone)]
        assert numbers[0] == numbers[1]
        assert "decision.brier" in numbers[0]


def test_an_intermediate_checkpoint_has_no_decision_but_one_can_be_fitted(tmp_path: Path) -> None:
    make_train(tmp_path)("run")
    head = load_head(min((tmp_path / "run").glob("step-*")))
    assert head.record.decision is None
    assert fit_decision(FeatureStore.open(tmp_path / "train"), head).calibration.slope != 0
