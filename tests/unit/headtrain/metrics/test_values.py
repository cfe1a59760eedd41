"""Metrics of single samples: against scipy and scikit-learn, and against plain resampling."""

import numpy as np
import pytest
from scipy.stats import f_oneway, spearmanr
from sklearn.metrics import f1_score, roc_auc_score

from headtrain.metrics.bootstrap import resample_jointly
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.metrics.values import (
    auc,
    between_problems,
    brier,
    calibration_error,
    f1,
    intraclass_correlation,
    mean_score,
    rank_correlations,
    score_gap,
)


def simulated(seed, num_problems=40, *, between=0.5):
    """Return problems of two to nine samples; some problems score higher than others."""
    generator = np.random.default_rng(seed)
    problem = np.repeat(np.arange(num_problems), generator.integers(2, 10, num_problems))
    labels = generator.random(len(problem)) < generator.random(num_problems)[problem]
    level = between * generator.normal(size=num_problems)[problem]
    return ScoredSamples(
        scores=np.round(generator.normal(size=len(problem)) + labels + level, 1),
        is_correct=labels,
        problem=problem,
        output_tokens=generator.integers(5, 20, len(problem)),
    )


def probabilities(seed, num_samples=200):
    """Return samples whose scores are probabilities, mostly small ones."""
    generator = np.random.default_rng(seed)
    return ScoredSamples(
        scores=generator.random(num_samples) ** (seed + 1),
        is_correct=generator.random(num_samples) < 0.5,
        problem=generator.integers(9, size=num_samples),
        output_tokens=np.zeros(num_samples, np.int64),
    )


def replicates(metric, rounds, seed=3):
    return resample_jointly({"it": metric}, rounds=rounds, seed=seed)["it"].replicates


def resampled_plainly(scored, statistic, *, rounds, seed=3):
    """Return the statistic of every resample of whole problems, sample by sample."""
    generator = np.random.default_rng(seed)
    names = np.unique(scored.problem)
    places = [np.flatnonzero(scored.problem == name) for name in names]
    found = []
    for _ in range(rounds):
        drawn = generator.integers(len(names), size=len(names))
        found.append(statistic(np.concatenate([places[place] for place in drawn])))
    return np.array(found)


def test_the_auc_is_scikit_learns():
    scored = simulated(0)
    assert auc(scored).value == pytest.approx(roc_auc_score(scored.is_correct, scored.scores))


def test_the_interval_of_the_auc_of_few_problems_stays_within_0_and_1():
    scored = ScoredSamples(
        scores=np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.7, 0.4, 0.6]),
        is_correct=np.array([True, True, False, False, True, False, False, True]),
        problem=np.repeat(np.arange(4), 2),
        output_tokens=np.zeros(8, np.int64),
    )
    found = replicates(auc(scored), 400)
    defined = found[np.isfinite(found)]
    assert defined.min() >= 0
    assert defined.max() == 1


def test_the_interval_of_the_auc_is_that_of_resampling_the_samples():
    scored = simulated(1, num_problems=60)
    ours = replicates(auc(scored), 600)
    theirs = resampled_plainly(
        scored,
        lambda rows: roc_auc_score(scored.is_correct[rows], scored.scores[rows]),
        rounds=600,
    )
    # equal seeds draw equal problems: the rounds differ only in the second order
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx(
        np.quantile(theirs, [0.025, 0.975]), abs=0.004
    )


@pytest.mark.parametrize("name", ["mean_correct", "gap", "f1", "brier"])
def test_every_resample_is_that_of_the_samples(name):
    scored = simulated(2)
    labels, scores = scored.is_correct, scored.scores
    metric, plain = {
        "mean_correct": (mean_score(scored, labels), lambda r: scores[r][labels[r]].mean()),
        "gap": (
            score_gap(scored),
            lambda r: scores[r][labels[r]].mean() - scores[r][~labels[r]].mean(),
        ),
        "f1": (f1(scored, scores >= 0.4), lambda r: f1_score(labels[r], scores[r] >= 0.4)),
        "brier": (brier(scored), lambda r: ((scores[r] - labels[r]) ** 2).mean()),
    }[name]
    everyone = np.arange(len(scored))
    assert metric.value == pytest.approx(plain(everyone))
    assert replicates(metric, 50) == pytest.approx(resampled_plainly(scored, plain, rounds=50))


def test_rounds_without_a_label_have_no_gap():
    scored = ScoredSamples(
        scores=[3.0, 1.0],
        is_correct=np.array([True, False]),
        problem=np.array([0, 1]),
        output_tokens=np.zeros(2, np.int64),
    )
    gaps = replicates(score_gap(scored), 100)
    assert 20 < np.isnan(gaps).sum() < 80
    assert set(gaps[np.isfinite(gaps)]) == {2.0}


def enumerated_error(probability, labels):
    """Return the calibration error by walking through the fifteen bins."""
    error = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        inside = (probability >= low) & ((probability < high) | (index == 14))
        if inside.any():
            error += inside.mean() * abs(labels[inside].mean() - probability[inside].mean())
    return error


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_error_is_the_weighted_gap_of_fifteen_bins(seed):
    samples = probabilities(seed)
    expected = enumerated_error(samples.scores, samples.is_correct)
    assert calibration_error(samples).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("is_right", "error"), [(True, 0.0), (False, 1.0)])
def test_certain_probabilities_are_perfect_or_as_far_off_as_can_be(is_right, error):
    samples = probabilities(0)
    certain = samples.with_scores(samples.is_correct == is_right)
    assert (calibration_error(certain).value, brier(certain).value) == (error, error)


def test_the_shares_of_variance_are_those_of_an_analysis_of_variance():
    scored = simulated(4)
    groups = [scored.scores[scored.problem == name] for name in np.unique(scored.problem)]
    total = ((scored.scores - scored.scores.mean()) ** 2).sum()
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    assert between_problems(scored).value == pytest.approx(1 - within / total)
    # F = MSB / MSW, so the correlation is (F - 1) / (F - 1 + n0)
    f = f_oneway(*groups).statistic
    sizes = np.array([len(group) for group in groups])
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    assert intraclass_correlation(scored).value == pytest.approx((f - 1) / (f - 1 + typical))


def test_large_scores_keep_their_variance():
    scored = simulated(5)
    moved = between_problems(scored.with_scores(scored.scores + 1e9)).value
    assert moved == pytest.approx(between_problems(scored).value, abs=1e-5)


def test_rank_correlations_are_scipys_problem_by_problem():
    scored = simulated(6, num_problems=200)
    scored = scored.with_scores(np.round(scored.scores))
    expected = []
    for name in np.unique(scored.problem):
        rows = scored.problem == name
        if len(set(scored.scores[rows])) > 1 and len(set(scored.output_tokens[rows])) > 1:
            expected.append(spearmanr(scored.scores[rows], scored.output_tokens[rows]).statistic)
    assert len(expected) < len(np.unique(scored.problem))  # undefined for some
    assert rank_correlations(scored) == pytest.approx(expected)
