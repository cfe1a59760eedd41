"""Platt scaling and the F1 threshold against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from headtrain.metrics.calibration import (
    Calibration,
    Decision,
    best_f1_threshold,
    fit_calibration,
    reliability,
)
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples


def platt_by_scikit_learn(scores, labels):
    """Fit soft targets as two weighted copies of each sample, one of either label."""
    targets = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    model = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000)
    model.fit(
        np.concatenate([scores, scores])[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    return model.coef_[0, 0], model.intercept_[0]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 3.0), (30.0, -50.0)])
def test_platt_scaling_equals_scikit_learn(scale, shift):
    generator = np.random.default_rng(0)
    labels = generator.random(400) < 0.3
    scores = generator.normal(size=400) + labels
    slope, intercept = platt_by_scikit_learn(scores, labels)
    fitted = fit_calibration(scores * scale + shift, labels)
    assert fitted.slope * scale == pytest.approx(slope, rel=1e-4)
    assert fitted.intercept + fitted.slope * shift == pytest.approx(intercept, rel=1e-4)


def test_separable_scores_have_a_finite_calibration():
    scores = np.array([0.0, 0.0, 10.0, 10.0])
    fitted = fit_calibration(scores, scores > 5)
    probability = fitted.probability(scores)
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    # Platt's targets for two samples of either label are 3/4 and 1/4
    assert probability.tolist() == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=1e-6)


@pytest.mark.parametrize("score", [0.0, 0.1, -3e8])
def test_constant_scores_are_calibrated_to_the_base_rate(score):
    labels = np.array([True] * 30 + [False] * 10)
    fitted = fit_calibration(np.full(40, score), labels)
    assert fitted.slope == 0.0
    expected = (30 * 31 / 32 + 10 * 1 / 12) / 40  # the mean of Platt's targets
    assert fitted.probability(np.array([123.0])) == pytest.approx([expected])


@pytest.mark.parametrize("num_samples", [50, 100, 1000])
@pytest.mark.parametrize("outlier", [-1e3, -2e3, -1e6])
def test_an_outlier_does_not_break_the_fit(num_samples, outlier):
    # whole Newton steps overshoot here until the equations are singular
    scores = np.zeros(num_samples)
    scores[:3], scores[-1] = 100.0, outlier
    labels = scores > 0
    probability = fit_calibration(scores, labels).probability(scores)
    surplus = probability - np.where(labels, 4 / 5, 1 / (num_samples - 3 + 2))
    unit = scores / scores.std()
    assert [surplus.mean(), (surplus * unit).mean()] == pytest.approx([0, 0], abs=1e-8)


def test_extreme_scores_neither_overflow_nor_warn():
    calibration = Calibration(slope=1.0, intercept=0.0)
    assert calibration.probability(np.array([-1e308, 0.0, 1e308])).tolist() == [0.0, 0.5, 1.0]


def samples_of(scores, labels):
    return ScoredSamples(
        scores=scores,
        is_correct=labels,
        problem=np.zeros(len(scores), dtype=np.int64),
        output_tokens=np.zeros(len(scores), dtype=np.int64),
    )


def test_a_decision_is_calibration_and_threshold_of_train():
    generator = np.random.default_rng(0)
    labels = generator.random(80) < 0.5
    scores = generator.normal(size=80) + labels
    decision = Decision.fit(samples_of(scores, labels))
    assert decision.calibration == fit_calibration(scores, labels)
    assert decision.f1_threshold == best_f1_threshold(scores, labels)


@pytest.mark.parametrize("size", [0, 3])
def test_a_decision_needs_both_labels(size):
    with pytest.raises(EvaluationError, match=f"{size} of {size} samples are correct"):
        Decision.fit(samples_of(np.zeros(size), np.ones(size, dtype=bool)))


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_has_the_best_f1_of_all_thresholds(seed):
    generator = np.random.default_rng(seed)
    scores, labels = generator.integers(9, size=60) / 4, generator.random(60) < 0.4
    f1 = {threshold: f1_score(labels, scores >= threshold) for threshold in np.unique(scores)}
    assert f1[best_f1_threshold(scores, labels)] == pytest.approx(max(f1.values()), abs=1e-12)


def test_of_equally_good_thresholds_the_highest_is_taken():
    # calling 1 of 2 right: 2*1/(1+2); calling 4 with 2 right: 2*2/(4+2); both 2/3
    labels = np.array([True, False, False, True])
    assert best_f1_threshold(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 4.0


def test_a_threshold_never_splits_a_tie():
    # taking the correct one of the tied pair alone would be perfect, but no threshold can
    assert best_f1_threshold(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 1.0


def test_a_reliability_diagram_has_the_bins_that_hold_samples():
    probability = np.array([0.0, 0.01, 0.5, 1.0, 0.99])
    labels = np.array([False, True, True, True, True])
    bins = reliability(probability, labels)
    assert [part.num_samples for part in bins] == [2, 1, 2]
    assert [part.mean_probability for part in bins] == pytest.approx([0.005, 0.5, 0.995])
    assert [part.share_correct for part in bins] == [0.5, 1.0, 1.0]
