"""Which head of a run is kept, and what a run learns from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.store import FeatureStore
from featurize.store.samples import LIKELIHOOD_COLUMNS
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import load_head
from headtrain.training.validation import measure_accuracy, read_validation
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import (
    Killed,
    RecordingTracker,
    Train,
    assert_same_weights,
    head_at,
    kill_at,
    make_train,
    weights_of,
)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    return make_train(tmp_path)


@pytest.fixture
def noise(tmp_path: Path) -> FeatureStore:
    """A validation set that nothing separates."""
    return write_store(tmp_path / "noise", signal=0.0, likelihood=True, fingerprint="noise")


def test_the_head_learns_what_separates_the_labels(train: Train) -> None:
    result = train(training={"n_epochs": 10})
    assert (result.valid_over_problems or 0) > 0.9
    assert result.num_pairs == 100
    assert result.num_problems == 12
    assert result.num_possible_pairs == 12 * 16


def test_features_without_signal_stay_at_chance(train: Train, tmp_path: Path) -> None:
    noise = write_store(tmp_path / "noise", signal=0.0, num_problems=60, seed=3)
    valid = write_store(tmp_path / "noise-valid", signal=0.0, num_problems=60, seed=4)
    result = train(train=noise, valid=valid)
    assert result.valid_over_problems == pytest.approx(0.5, abs=0.1)


def test_best_is_the_highest_accuracy_ever_seen(train: Train, noise: FeatureStore) -> None:
    tracker = RecordingTracker()
    training = {"value_head_learning_rate": 0.05, "n_epochs": 4}
    result = train(valid=noise, tracker=tracker, training=training)
    seen = [
        line["valid/accuracy_over_problems"]
        for line in tracker.metrics.values()
        if "valid/accuracy_over_problems" in line
    ]
    assert max(seen) > seen[-1]
    assert result.valid_over_problems == max(seen)
    assert head_at(result.best).record.step == result.best_step


def test_without_a_validation_set_only_the_final_head_is_kept(train: Train) -> None:
    result = train(valid=None)
    assert result.best is None
    assert result.valid_over_problems is None
    assert weights_of(result.final)
    with pytest.raises(ValueError, match="save_final"):
        train("other", valid=None, checkpoint={"save_final": False})


def test_stores_of_different_recipes_are_refused(train: Train, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", recipe_fingerprint="other", likelihood=True)
    with pytest.raises(ValueError, match=r"different recipes \(recipe, other\)"):
        train(valid=other)


def test_a_diverging_run_stops_and_says_what_to_lower(train: Train) -> None:
    with pytest.raises(ValueError, match=r"value_head_learning_rate 1e\+30"):
        train(training={"value_head_learning_rate": 1e30, "max_grad_norm": None, "n_epochs": 9})


def test_heads_are_copied_to_a_uri_when_they_are_written(train: Train, tmp_path: Path) -> None:
    target = tmp_path / "bucket"
    result = train(checkpoint={"s3_upload": True, "s3_uri": target.as_uri()})
    assert result.best is not None
    copies = target / result.best.parent.name
    assert_same_weights(result.best, copies / "best")
    assert_same_weights(result.final, copies / "final")
    assert load_head(f"{copies.as_uri()}/final").record.step == result.num_steps


def test_a_trained_head_scores_every_sample_of_a_store(train: Train, tmp_path: Path) -> None:
    result = train(training={"n_epochs": 10})
    labels = [None if place % 5 == 0 else bool(place % 2) for place in range(96)]
    store = write_store(tmp_path / "more", likelihood=True, labels=labels, seed=5)
    values = head_at(result.best).score(store)
    assert values.shape == (96,)
    is_correct = [label is True for label in labels]
    is_wrong = [label is False for label in labels]
    assert (values[is_correct][:, None] > values[is_wrong]).mean() > 0.9


def test_the_head_records_how_it_was_chosen_and_what_it_was_trained_on(train: Train) -> None:
    result = train()
    best, final = head_at(result.best).record, head_at(result.final).record
    assert best.selection["by"] == "valid/accuracy_over_problems"
    assert final.selection == {"by": "last step"}
    assert best.pairs["num_pairs"] == result.num_pairs == 100
    assert best.pairs["checksum"] == final.pairs["checksum"]
    assert len(best.pairs["checksum"]) == 64


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_nothing_gets_better(
    train: Train, noise: FeatureStore, patience: int
) -> None:
    options = {"value_head_learning_rate": 0.05, "n_epochs": 20}
    tracker = RecordingTracker()
    result = train(
        valid=noise, tracker=tracker, training={**options, "early_stopping_patience": patience}
    )
    name = "valid/accuracy_over_problems"
    seen = [line[name] for line in tracker.metrics.values() if name in line]
    since_best = len(seen) - 1 - int(np.argmax(seen))
    assert since_best == patience
    assert result.stopped_early
    assert result.num_steps == max(tracker.metrics) < 20 * 100 / 8
    assert head_at(result.final).record.step == result.num_steps
    assert train(
        valid=noise, training={**options, "early_stopping_patience": patience}
    ).was_up_to_date


def test_a_killed_run_stops_early_where_it_would_have(train: Train, noise: FeatureStore) -> None:
    options = {"value_head_learning_rate": 0.05, "n_epochs": 20, "early_stopping_patience": 3}
    straight = train("straight", valid=noise, training=options)
    with pytest.raises(Killed):
        train("killed", valid=noise, training=options, progress=kill_at(straight.num_steps - 2))
    resumed = train("killed", valid=noise, training=options)
    assert resumed.resumed_from_step is not None
    assert (resumed.num_steps, resumed.best_step) == (straight.num_steps, straight.best_step)
    assert_same_weights(straight.final, resumed.final)


def test_held_out_train_problems_are_scored_and_recorded(train: Train) -> None:
    tracker = RecordingTracker()
    plain = train("plain", training={"n_epochs": 10})
    result = train(train_holdout=0.25, tracker=tracker, training={"n_epochs": 10})
    assert (plain.num_problems, result.num_problems) == (12, 9)
    assert (plain.num_held_out, result.num_held_out) == (0, 3 * 8)
    assert plain.holdout_over_problems is None
    assert (result.holdout_over_problems or 0) > 0.9
    assert result.holdout_over_problems in result.describe().values()
    assert any("holdout/accuracy_over_problems" in line for line in tracker.metrics.values())
    holdout = head_at(result.best).record.holdout
    assert holdout is not None
    assert sum(holdout.contains(f"problem-{number:03d}") for number in range(12)) == 3
    assert head_at(result.best).record.selection["by"].startswith("valid/")


def test_without_a_validation_set_held_out_train_problems_choose(train: Train) -> None:
    result = train(valid=None, train_holdout=0.25, checkpoint={"save_final": False})
    assert head_at(result.best).record.selection["by"] == "holdout/accuracy_over_problems"


@pytest.mark.parametrize(
    "training",
    [
        {"batching": "problems", "problem_pairs": "all", "pair_weights": "problems"},
        {"margin": 1.0, "label_smoothing": 0.1, "center_coefficient": 0.01},
        {"loss_type": "pointwise", "pointwise_loss": "bce"},
        {"loss_type": "pointwise", "pointwise_loss": "mse"},
        {"feature_mix": "mix"},
        {"value_head_type": "linear", "value_head_learning_rate": 0.01},
        {"value_head_type": "contrast", "contrast": "lda"},
        {"value_head_type": "centroid", "feature_mix": "mix", "pair_weights": "problems"},
        {"value_head_width": 2, "normaliser": "tensor"},
        {"normaliser": "none"},
    ],
    ids=str,
)
def test_every_kind_of_head_and_loss_learns_what_separates_the_labels(
    train: Train, training: dict[str, object]
) -> None:
    result = train(training={"n_epochs": 15, **training})
    assert (result.valid_over_problems or 0) > 0.9
    if "value_head_width" in training:
        weights = weights_of(result.final)
        assert weights["head.mlp.0.weight"].shape[0] == training["value_head_width"]


def test_a_closed_form_is_fitted_in_one_step_and_saved_as_a_linear_head(
    train: Train, tmp_path: Path
) -> None:
    result = train(training={"value_head_type": "contrast"})
    head = load_head(tmp_path / "run")
    assert (result.num_steps, head.record.step, head.record.head_type) == (1, 1, "linear")
    assert head.record.metrics["valid/accuracy_over_problems"] == result.valid_over_problems
    names = {"head.linear.weight", "normaliser.mean", "normaliser.scale"}
    assert set(weights_of(result.final)) == names
    assert train(training={"value_head_type": "contrast"}).was_up_to_date


@pytest.mark.parametrize("normaliser", ["standardize", "tensor", "none"])
def test_a_head_normalises_by_what_its_training_samples_vary(
    train: Train, tmp_path: Path, normaliser: str
) -> None:
    training = {"normaliser": normaliser, "features": ["mean.2"], "n_epochs": 0.1}
    result = train(training=training, pairwise={"n_pairs": 1000})
    state = weights_of(result.final)
    store = FeatureStore.open(tmp_path / "train")
    tensor = store.gather("mean.2", torch.tensor(store.samples["feature_row"].to_numpy())).numpy()
    columns = [store.samples[name].to_numpy() for name in LIKELIHOOD_COLUMNS]
    features = np.column_stack([tensor, *columns]).astype(np.float64)
    scale, width = features.std(0), tensor.shape[1]
    if normaliser == "tensor":
        scale[:width] = np.sqrt((scale[:width] ** 2).mean())
    is_none = normaliser == "none"
    mean = np.zeros_like(scale) if is_none else features.mean(0)
    np.testing.assert_allclose(state["normaliser.mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["normaliser.scale"], 1 if is_none else scale, rtol=1e-4)


def test_the_train_subset_is_measured_as_validation_is(train: Train, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    result = train(tracker=tracker, training={"dropout": 0.5}, pairwise={"n_pairs": 192})
    measured = {
        step: line["train_subset/accuracy_over_problems"]
        for step, line in tracker.metrics.items()
        if "train_subset/accuracy_over_problems" in line
    }
    validated = {
        step for step, line in tracker.metrics.items() if "valid/accuracy_over_pairs" in line
    }
    assert set(measured) == validated
    assert result.best_step is not None
    assert result.train_over_problems == measured[result.best_step]
    # the same pairs by the head that was saved; with 192 pairs every sample is in one
    store = FeatureStore.open(tmp_path / "train")
    head = head_at(result.best)
    assert result.num_samples == store.samples.num_rows
    inputs = read_validation(
        store,
        head.record.columns,
        limit=None,
        seed=0,
        normaliser=head.model.members[0].normaliser,
        memory=FeatureMemory(device=torch.device("cpu")),
    )
    alone = measure_accuracy(head.model.members[0], inputs)
    assert result.train_over_problems == pytest.approx(alone.over_problems)
    assert result.train_over_pairs == pytest.approx(alone.over_pairs)


def test_a_run_without_a_validation_set_has_the_train_accuracy_of_its_last_step(
    train: Train,
) -> None:
    tracker = RecordingTracker()
    result = train(valid=None, tracker=tracker)
    last = tracker.metrics[result.num_steps]
    assert result.train_over_problems == last["train_subset/accuracy_over_problems"]
