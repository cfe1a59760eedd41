"""The bootstrap over problems: against scipy, against theory, and in its edge cases."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from headtrain.metrics.bootstrap import (
    Interval,
    Resampled,
    SumStatistic,
    ratio,
    resample_jointly,
    resample_sums,
)


def simulated(generator, num_problems):
    """Return [problems, 2] wins and pairs; the expected win rate is 0.6 for every pair count."""
    num_pairs = generator.integers(1, 50, size=num_problems)
    rate = generator.beta(6, 4, size=num_problems)  # pairs of a problem are correlated
    return np.stack([generator.binomial(num_pairs, rate), num_pairs], axis=1).astype(float)


def test_the_interval_of_a_ratio_agrees_with_scipy():
    counts = simulated(np.random.default_rng(0), 30)
    ours = resample_sums(counts, rounds=20_000, seed=1).apply(ratio(0, 1))
    theirs = bootstrap(
        (counts[:, 0], counts[:, 1]),
        lambda wins, pairs, axis: wins.sum(axis=axis) / pairs.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    interval = ours.interval()
    assert interval.low == pytest.approx(theirs.confidence_interval.low, abs=2e-3)
    assert interval.high == pytest.approx(theirs.confidence_interval.high, abs=2e-3)
    assert ours.replicates.std() == pytest.approx(theirs.standard_error, rel=0.03)


def test_a_round_draws_as_many_problems_as_there_are():
    resampled = resample_sums(np.ones((17, 1)), rounds=50, seed=0)
    assert resampled.rounds.tolist() == [[17.0]] * 50
    assert resampled.observed.tolist() == [[17.0]]


def test_equal_seeds_give_equal_rounds_and_others_do_not():
    counts = simulated(np.random.default_rng(0), 20)
    first, again = (resample_sums(counts, rounds=10, seed=[1, 2]).rounds for _ in range(2))
    other = resample_sums(counts, rounds=10, seed=[1, 3]).rounds
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_columns_are_resampled_together():
    column = np.arange(9.0)
    rounds = resample_sums(np.stack([column, 2 * column], axis=1), rounds=20, seed=0).rounds
    assert np.array_equal(rounds[:, 1], 2 * rounds[:, 0])
    assert len(np.unique(rounds[:, 0])) > 5


def test_a_single_problem_has_an_estimate_and_no_interval():
    resampled = resample_sums(np.array([[3.0, 4.0]]), rounds=10, seed=0).apply(ratio(0, 1))
    assert resampled.interval() == Interval(estimate=0.75, low=None, high=None)


def test_rounds_without_a_label_are_left_out_of_the_interval():
    # only one of two problems has the label: a quarter of the rounds lack it
    resampled = resample_sums(np.array([[6.0, 2.0], [0.0, 0.0]]), rounds=100, seed=0)
    mean = resampled.apply(ratio(0, 1))
    assert 10 < np.isnan(mean.replicates).sum() < 40
    assert mean.interval() == Interval(estimate=3.0, low=3.0, high=3.0)


def test_the_confidence_is_the_share_of_rounds_inside():
    resampled = Resampled(estimate=0.0, replicates=np.linspace(-1, 1, 1001))
    assert resampled.interval(0.5) == Interval(estimate=0.0, low=-0.5, high=0.5)
    default = resampled.interval()
    assert (default.low, default.high) == pytest.approx((-0.95, 0.95))


def test_a_difference_of_independent_data_adds_their_variances():
    first, second = (np.random.default_rng(seed).normal(size=(100, 1)) for seed in (1, 2))
    one, two = (
        resample_sums(np.hstack([data, np.ones((100, 1))]), rounds=4000, seed=seed).apply(
            ratio(0, 1)
        )
        for seed, data in ((1, first), (2, second))
    )
    difference = one - two
    assert difference.estimate == pytest.approx(first.mean() - second.mean())
    assert difference.replicates.var() == pytest.approx(
        one.replicates.var() + two.replicates.var(), rel=0.1
    )


def test_metrics_resampled_jointly_are_those_of_each_alone():
    first, second = np.random.default_rng(0).random((2, 30, 2))
    metrics = {"a": SumStatistic(first, ratio(0, 1)), "b": SumStatistic(second, ratio(1, 0))}
    found = resample_jointly(metrics, rounds=70, seed=5)
    alone = resample_sums(second, rounds=70, seed=5).apply(ratio(1, 0))
    assert found["b"].replicates == pytest.approx(alone.replicates)
    assert found["a"].estimate == metrics["a"].value
    assert metrics["a"].value == pytest.approx(first[:, 0].sum() / first[:, 1].sum())


def test_moving_replicates_keeps_their_spread_and_removes_their_bias():
    resampled = Resampled(estimate=0.2, replicates=np.array([0.5, 0.6, 0.7, np.nan]))
    assert resampled.recentred().replicates[:3] == pytest.approx([0.1, 0.2, 0.3])
    nowhere = Resampled(estimate=0.2, replicates=np.array([np.nan]))
    assert np.isnan(nowhere.recentred().replicates).all()


@pytest.mark.parametrize(
    ("low", "high", "reach"),
    [
        (0.25, 1.0, (0.25, 0.5)),
        (0.0, 0.5, (0.5, 0.0)),
        (0.75, 1.0, (0.0, 0.5)),
        (None, None, (0, 0)),
    ],
)
def test_an_interval_reaches_below_and_above_its_estimate(low, high, reach):
    assert Interval(estimate=0.5, low=low, high=high).reach == reach
