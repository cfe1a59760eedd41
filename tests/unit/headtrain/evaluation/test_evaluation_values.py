"""Numbers of single samples and their intervals: against scipy, and against plain resampling."""

import numpy as np
import pytest
from headtrain.evaluation.shortcuts.length import rank_correlations
from scipy.stats import f_oneway, spearmanr
from sklearn.metrics import roc_auc_score

from headtrain.evaluation.shortcuts.controls import prompt_only_scores, shuffled_tally
from headtrain.metrics.bootstrap import JointSums, Resampled, ratio, resample_sums
from headtrain.metrics.calibration import Calibration, Decision, reliability
from headtrain.metrics.pairwise import ScoredSamples, best_f1_threshold
from headtrain.metrics.values import add_auc, auc_sums, measure_decision, measure_values
from headtrain.metrics.variance import (
    between_share,
    intraclass_correlation,
    variance_sums,
)
from headtrain.settings import EvaluationSettings

SETTINGS = EvaluationSettings(bootstrap_rounds=300)


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


def resampled_plainly(scored, statistic, *, rounds, seed):
    """The statistic of every resample of whole problems, sample by sample."""
    generator = np.random.default_rng(seed)
    names = np.unique(scored.problem)
    places = [np.flatnonzero(scored.problem == name) for name in names]
    found = []
    for _ in range(rounds):
        drawn = generator.integers(len(names), size=len(names))
        rows = np.concatenate([places[place] for place in drawn])
        copy = np.repeat(np.arange(len(drawn)), [len(places[place]) for place in drawn])
        found.append(statistic(rows, copy))
    return np.array(found)


def test_the_auc_is_scikit_learns():
    scored = simulated(0)
    sums = JointSums()
    add_auc(sums, "auc", scored)
    found = sums.resample(rounds=10, seed=0)["auc"]
    expected = roc_auc_score(scored.is_correct, scored.scores)
    assert found.estimate == pytest.approx(expected)
    shares = auc_sums(scored).sum(axis=0)
    assert shares[0] / shares[1] == pytest.approx(expected)
    assert shares[2] / shares[3] == pytest.approx(expected)


def test_the_interval_of_the_auc_is_that_of_resampling_the_samples():
    scored = simulated(1, num_problems=60)
    sums = JointSums()
    add_auc(sums, "auc", scored)
    ours = sums.resample(rounds=600, seed=3)["auc"].replicates
    theirs = resampled_plainly(
        scored,
        lambda rows, _: roc_auc_score(scored.is_correct[rows], scored.scores[rows]),
        rounds=600,
        seed=3,
    )
    # equal seeds draw equal problems: round by round they differ by the second order alone
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx(
        np.quantile(theirs, [0.025, 0.975]), abs=0.004
    )


def test_every_value_of_a_round_is_that_of_its_samples():
    scored = simulated(2)
    decision = Decision(
        calibration=Calibration(slope=0.8, intercept=-0.3),
        f1_threshold=best_f1_threshold(scored.scores, scored.is_correct),
    )
    probability = decision.calibration.probability(scored.scores)
    stream = [7]
    decided = measure_decision(scored, decision, SETTINGS, stream).result
    values = measure_values(scored, SETTINGS, stream)

    def plainly(rows, _):
        labels, scores = scored.is_correct[rows], scored.scores[rows]
        called = scores >= decision.f1_threshold
        f1 = 2 * (called & labels).sum() / (called.sum() + labels.sum())
        brier = ((probability[rows] - labels) ** 2).mean()
        return f1, brier, scores[labels].mean(), scores[~labels].mean()

    rounds = resampled_plainly(scored, plainly, rounds=SETTINGS.bootstrap_rounds, seed=stream)
    for column, found in zip(
        rounds.T,
        (decided.f1, decided.brier, values.values.mean_correct, values.values.mean_incorrect),
        strict=True,
    ):
        assert [found.low, found.high] == pytest.approx(np.quantile(column, [0.025, 0.975]))


def test_the_interval_of_the_calibration_error_is_around_it():
    scored = simulated(3, num_problems=15)
    decision = Decision(calibration=Calibration(slope=1.0, intercept=-0.5), f1_threshold=0.0)
    error = measure_decision(scored, decision, SETTINGS, [1]).result.expected_calibration_error
    assert 0 <= error.low < error.estimate < error.high


def test_moving_replicates_keeps_their_spread_and_not_their_bias():
    resampled = Resampled(estimate=0.2, replicates=np.array([0.5, 0.6, 0.7, np.nan]))
    assert resampled.recentred().replicates[:3] == pytest.approx([0.1, 0.2, 0.3])
    nowhere = Resampled(estimate=0.2, replicates=np.array([np.nan]))
    assert np.isnan(nowhere.recentred().replicates).all()


def test_statistics_side_by_side_are_those_of_each_alone():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 30, 2))
    sums = JointSums()
    sums.add("first", first, ratio(0, 1))
    sums.add("second", second, ratio(1, 0))
    found = sums.resample(rounds=70, seed=5)
    alone = resample_sums(second, rounds=70, seed=5).apply(ratio(1, 0))
    assert found["second"].replicates == pytest.approx(alone.replicates)
    assert found["first"].estimate == pytest.approx(first[:, 0].sum() / first[:, 1].sum())


def test_the_shares_of_variance_are_those_of_an_analysis_of_variance():
    scored = simulated(4)
    groups = [scored.scores[scored.problem == name] for name in np.unique(scored.problem)]
    sums = variance_sums(scored).sum(axis=0, keepdims=True)
    total = ((scored.scores - scored.scores.mean()) ** 2).sum()
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    assert between_share(sums)[0] == pytest.approx(1 - within / total)
    # F = MSB / MSW, so the correlation is (F - 1) / (F - 1 + n0)
    f = f_oneway(*groups).statistic
    sizes = np.array([len(group) for group in groups])
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    assert intraclass_correlation(sums)[0] == pytest.approx((f - 1) / (f - 1 + typical))


def test_far_off_scores_keep_their_variance():
    scored = simulated(5)
    far = scored.with_scores(scored.scores + 1e9)
    near, moved = (
        between_share(variance_sums(samples).sum(axis=0, keepdims=True))[0]
        for samples in (scored, far)
    )
    assert moved == pytest.approx(near, abs=1e-5)


def test_rank_correlations_are_scipys_problem_by_problem():
    scored = simulated(6, num_problems=200)
    scored = scored.with_scores(np.round(scored.scores))
    expected = []
    for name in np.unique(scored.problem):
        rows = scored.problem == name
        if len(set(scored.scores[rows])) > 1 and len(set(scored.output_tokens[rows])) > 1:
            expected.append(spearmanr(scored.scores[rows], scored.output_tokens[rows]).statistic)
    assert len(expected) < len(np.unique(scored.problem))  # some have none
    assert rank_correlations(scored) == pytest.approx(expected)


def test_shuffling_keeps_the_pairs_and_every_score_in_its_problem():
    scored = simulated(7)
    tally = shuffled_tally(scored, seed=0)
    both = [
        (labels.sum(), (~labels).sum())
        for name in np.unique(scored.problem)
        if 0 < (labels := scored.is_correct[scored.problem == name]).sum() < len(labels)
    ]
    assert tally.num_pairs.tolist() == [c * i for c, i in both]
    # scores that only tell the problem would win or lose across problems if they moved there
    only_problem = scored.with_scores(scored.problem * 1.0)
    assert (shuffled_tally(only_problem, seed=0).wins == tally.num_pairs / 2).all()


def test_shuffled_labels_win_half_of_the_pairs_whatever_the_scores_know():
    scored = simulated(8, num_problems=300)
    tally = shuffled_tally(scored.with_scores(scored.is_correct * 1.0), seed=0)
    assert tally.wins.sum() / tally.total == pytest.approx(0.5, abs=0.02)


def test_the_best_judge_of_prompts_scores_the_share_of_correct():
    scored = simulated(9)
    scores = prompt_only_scores(scored)
    for name in np.unique(scored.problem):
        rows = scored.problem == name
        assert scores[rows] == pytest.approx([scored.is_correct[rows].mean()] * rows.sum())


def test_a_reliability_diagram_has_the_bins_that_hold_samples():
    probability = np.array([0.0, 0.01, 0.5, 1.0, 0.99])
    labels = np.array([False, True, True, True, True])
    bins = reliability(probability, labels)
    assert [part.num_samples for part in bins] == [2, 1, 2]
    assert [part.mean_probability for part in bins] == pytest.approx([0.005, 0.5, 0.995])
    assert [part.share_correct for part in bins] == [0.5, 1.0, 1.0]
