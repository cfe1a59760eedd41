"""Measuring heads, and what is fitted to train: the decision, and the distance kept beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.evaluation.evaluate import evaluate_head
from headtrain.export.head_folder import copy_head
from headtrain.features.inputs import HeadInputs, choose_columns, read_head_inputs
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import read_labelled_samples
from headtrain.head.checkpoint import load_head, write_head
from headtrain.head.distance import DISTANCE_FILE
from headtrain.head.model import FeatureNormaliser
from headtrain.scoring.scorer import Scorer
from headtrain.settings import EvaluationSettings
from headtrain.training.validation import (
    choose_whole_problems,
    fit_decision,
    keep_distance,
    measure_accuracy,
    read_validation,
)
from tests.support.head_jobs import CPU, make_model
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import make_train


def read(store: FeatureStore, limit: int | None = None) -> HeadInputs:
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
    measured = measure_accuracy(model, validation)
    assert measure_accuracy(model, validation) == measured  # without dropout
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
    assert measure_accuracy(model, read(write_store(tmp_path / "store"))) == (0.5, 0.5)


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores `train` and `valid`, and a head trained without some problems."""
    base = tmp_path_factory.mktemp("kept")
    make_train(base)(train_holdout=0.25)
    return base


def test_it_is_fitted_to_the_problems_the_head_was_trained_on(folder: Path) -> None:
    train = FeatureStore.open(folder / "train")
    path = folder / "run/best"
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    kept = keep_distance(path, train)
    assert kept.num_problems == 9  # of 12, a quarter held out
    assert {file.name: file.read_bytes() for file in path.iterdir()} == files | {
        DISTANCE_FILE: (path / DISTANCE_FILE).read_bytes()
    }
    head = load_head(path)
    found = head.read_distance()
    assert found is not None
    inputs = read_head_inputs(train, head.record.columns)
    expected = found.measure(inputs.features.numpy())[inputs.rows]
    shares = head.distances(train, found)[inputs.samples.table_rows]
    assert shares == pytest.approx(expected, abs=1e-6)


def test_a_file_that_fits_is_kept_and_a_damaged_one_replaced(folder: Path) -> None:
    train, path = FeatureStore.open(folder / "train"), folder / "run/best"
    keep_distance(path, train)
    state = (path / DISTANCE_FILE).stat()
    keep_distance(path, train)
    assert (path / DISTANCE_FILE).stat().st_mtime_ns == state.st_mtime_ns
    content = (path / DISTANCE_FILE).read_bytes()
    (path / DISTANCE_FILE).write_bytes(content[:50])
    keep_distance(path, train)
    assert (path / DISTANCE_FILE).read_bytes() == content


def test_other_features_than_the_heads_are_refused(folder: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", seed=5, likelihood=True, fingerprint="another")
    path = folder / "run/final"
    with pytest.raises(CriticError, match=r"was trained on the features .*name the train set"):
        keep_distance(path, other)
    assert not (path / DISTANCE_FILE).exists()


def test_a_copied_head_and_an_uploaded_one_keep_it(folder: Path, tmp_path: Path) -> None:
    train, path = FeatureStore.open(folder / "train"), folder / "run/best"
    (path / DISTANCE_FILE).unlink(missing_ok=True)
    kept = keep_distance(path, train, upload_uri=f"file://{tmp_path}/bucket")
    row = np.zeros((1, load_head(path).record.columns.width), np.float32)
    copy = copy_head(load_head(path), tmp_path / "copy")
    for head in (load_head(copy), load_head(f"file://{tmp_path}/bucket/run/best")):
        found = head.read_distance()
        assert found is not None
        assert found.measure(row) == kept.measure(row)


def test_it_goes_with_the_weights_it_was_kept_for(folder: Path, tmp_path: Path) -> None:
    copy = copy_head(load_head(folder / "run/best"), tmp_path / "head")
    keep_distance(copy, FeatureStore.open(folder / "train"))
    head = load_head(folder / "run/final")
    write_head(copy, head.model, head.record)
    assert not (copy / DISTANCE_FILE).exists()


def test_a_scorer_that_needs_it_refuses_a_head_without(folder: Path, tmp_path: Path) -> None:
    head = load_head(folder / "run/final")
    assert Scorer(head).distance is None
    with pytest.raises(CriticError, match="train-head --distance"):
        Scorer(head, has_distance=True)
