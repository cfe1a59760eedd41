"""Heads in closed form, against the same formulas in numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.errors import CriticError
from headtrain.head.distance import oas_share
from headtrain.settings import TrainingSettings
from headtrain.training import closed_form
from headtrain.training.closed_form import fit_direction
from headtrain.training.objective import Objective
from tests.support.head_jobs import CPU, make_inputs, make_job, make_trainer, run

KINDS: list[dict[str, Any]] = [
    {"value_head_type": "contrast"},
    {"value_head_type": "contrast", "contrast": "lda"},
    {"value_head_type": "contrast", "contrast": "lda", "contrast_shrinkage": 0.3},
    {"value_head_type": "contrast", "contrast": "pca"},
    {"value_head_type": "centroid"},
]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def make_objective(width: int = 16, num_pairs: int = 40, seed: int = 0) -> Objective:
    """Pairs of rows that share outputs, weighted, with a difference along the first column."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(30, width)) * draw.uniform(0.5, 3, size=width)
    features[:15, 0] += 2.0
    return Objective(
        features=torch.tensor(features, dtype=torch.float32),
        first=draw.integers(0, 15, num_pairs),
        second=draw.integers(15, 30, num_pairs),
        weights=draw.uniform(0.5, 2, num_pairs).astype(np.float32),
    )


def fit(objective: Objective, **fields: Any) -> np.ndarray:
    """The direction, at length 1."""
    weight = fit_direction(objective, TrainingSettings(**fields), CPU).weight.double().numpy()
    return weight / np.linalg.norm(weight)


def share_of(moment: np.ndarray, count: int) -> float:
    return oas_share(np.square(moment).sum(), np.trace(moment), len(moment), count)


def expected(
    objective: Objective,
    value_head_type: str,
    contrast: str = "mean",
    contrast_shrinkage: float | None = None,
) -> np.ndarray:
    """The same direction from numpy, at length 1."""
    features = objective.features.double().numpy()
    first, second = objective.first, objective.second
    assert second is not None
    differences, weights = features[first] - features[second], objective.weights.astype(float)
    mean = np.average(differences, axis=0, weights=weights)
    if value_head_type == "centroid":
        mean = features[list(set(first))].mean(0) - features[list(set(second))].mean(0)
    elif contrast == "pca":
        rows = differences * np.sqrt(weights)[:, None]
        component = np.linalg.svd(rows)[2][0]
        mean = component * np.sign(component @ mean)
    elif contrast == "lda":
        covariance = np.cov(differences.T, aweights=weights, bias=True)
        moment = covariance + np.outer(mean, mean)
        share = contrast_shrinkage
        if share is None:
            share = share_of(moment, min(len(set(first)), len(set(second))))
        level = share * np.trace(moment) / len(moment)
        # Fisher's direction: of the covariance, not of the second moment.
        shrunk = (1 - share) * covariance + level * np.eye(len(moment))
        mean = np.linalg.inv(shrunk) @ mean
    return mean / np.linalg.norm(mean)


@each_kind
def test_a_direction_is_that_of_its_formula(kind: dict[str, Any]) -> None:
    objective = make_objective()
    np.testing.assert_allclose(fit(objective, **kind), expected(objective, **kind), atol=1e-5)


@each_kind
def test_reading_in_chunks_changes_no_direction(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    objective = make_objective()
    whole = fit(objective, **kind)
    monkeypatch.setattr(closed_form, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(fit(objective, **kind), whole, atol=1e-6)


@each_kind
@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_the_unit_of_the_features_changes_no_direction(
    kind: dict[str, Any], factor: float, seed: int
) -> None:
    objective = make_objective(seed=seed)
    scaled = replace(objective, features=objective.features * factor)
    np.testing.assert_allclose(fit(scaled, **kind), fit(objective, **kind), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_the_values_of_a_contrast_differ_by_one_on_average(kind: dict[str, Any]) -> None:
    _, correct, incorrect, shares = fit_direction(make_objective(), TrainingSettings(**kind), CPU)
    assert float(shares @ (correct - incorrect).square()) == pytest.approx(1, rel=1e-5)


def test_a_centroid_value_is_the_difference_of_the_squared_distances_but_for_a_constant() -> None:
    objective = make_objective()
    fitted = fit_direction(objective, TrainingSettings(value_head_type="centroid"), CPU)
    assert objective.second is not None
    correct, incorrect = (
        objective.features[np.unique(rows)].mean(0) for rows in (objective.first, objective.second)
    )
    near, far = (
        (objective.features - centroid).square().sum(1) for centroid in (correct, incorrect)
    )
    constant = far - near - objective.features @ fitted.weight  # [rows]
    torch.testing.assert_close(constant, constant[:1].expand(30), rtol=1e-4, atol=1e-3)


def test_the_shrinkage_falls_with_the_number_of_differences() -> None:
    moment = np.diag(np.linspace(0.1, 3, 20))
    shares = [share_of(moment, count) for count in (2, 20, 200, 20_000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= 1
    assert shares[-1] < 0.01
    assert share_of(np.eye(20), 20_000) == 1


def test_the_loss_means_and_weights_of_a_head_come_from_one_step() -> None:
    job = make_job(value_head_type="contrast", contrast="lda")
    trainer = make_trainer(job)
    assert trainer.num_steps == 1
    (state,) = run(trainer)
    fitted = fit_direction(job.objective, job.settings, CPU)
    assert torch.equal(state["head.linear.weight"], fitted.weight[None])
    (means,) = trainer.read_means()
    won = (fitted.correct > fitted.incorrect).float()
    assert means["accuracy"] == pytest.approx(float(fitted.shares @ won), abs=1e-6)
    assert means["margin"] == pytest.approx(
        float(fitted.shares @ (fitted.correct - fitted.incorrect)), abs=1e-6
    )


def test_heads_in_closed_form_fitted_together_are_those_fitted_alone() -> None:
    inputs = make_inputs()
    jobs = [make_job(inputs=inputs, **kind) for kind in KINDS]
    states = run(make_trainer(*jobs))
    for kind, state in zip(KINDS, states, strict=True):
        (alone,) = run(make_trainer(make_job(inputs=inputs, **kind)))
        assert torch.equal(state["head.linear.weight"], alone["head.linear.weight"])


@each_kind
def test_pairs_without_a_difference_are_refused(kind: dict[str, Any]) -> None:
    objective = make_objective()
    same = replace(objective, features=torch.ones_like(objective.features))
    with pytest.raises(CriticError, match="do not differ in any direction"):
        fit_direction(same, TrainingSettings(**kind), CPU)


def test_a_matrix_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "MAX_WIDTH", 15)
    with pytest.raises(CriticError, match=r"'lda' over 16 features .* at most 15"):
        fit(make_objective(), value_head_type="contrast", contrast="lda")
    fit(make_objective(), value_head_type="contrast")  # the mean needs no matrix
