from collections import Counter

import numpy as np
from headtrain.pairs.allocation import share_out, spread_uniformly
from scipy.stats import chisquare

from headtrain.pairs.rng import Draws

LIMITS = np.array([2, 10, 5, 100])
ALIKE = np.ones(4, np.int64)


def test_quotas_fill_up_like_water() -> None:
    draws = Draws(0)
    assert share_out(LIMITS, 4, ALIKE, draws).tolist() == [1, 1, 1, 1]
    assert share_out(LIMITS, 17, ALIKE, draws).tolist() == [2, 5, 5, 5]
    assert share_out(LIMITS, 27, ALIKE, draws).tolist() == [2, 10, 5, 10]
    assert share_out(LIMITS, 117, ALIKE, draws).tolist() == [2, 10, 5, 100]
    assert sorted(share_out(LIMITS, 19, ALIKE, draws).tolist()) in ([2, 5, 6, 6], [2, 5, 5, 7])


def test_quotas_are_in_proportion_to_the_weights() -> None:
    draws = Draws(0)
    weights = np.array([1, 2, 1, 4])
    assert share_out(LIMITS, 8, weights, draws).tolist() == [1, 2, 1, 4]
    # The first is full with 2, so that the others share 28 by 2, 1 and 4.
    assert share_out(LIMITS, 30, weights, draws).tolist() == [2, 8, 4, 16]


def test_what_is_left_of_whole_numbers_is_drawn_by_share() -> None:
    weights = np.array([1, 2, 3, 4])
    limits = np.full(4, 9)
    draws = Draws(0)
    rounds = [share_out(limits, 3, weights, draws) for _ in range(1000)]
    assert all(quotas.sum() == 3 for quotas in rounds)
    observed = np.sum(rounds, axis=0)  # expected shares: 0.3, 0.6, 0.9 and 1.2
    assert np.allclose(observed / 1000, [0.3, 0.6, 0.9, 1.2], atol=0.06)


def test_uniform_quotas_are_hypergeometric() -> None:
    draws = Draws(1)
    limits = np.array([3, 1, 4])
    counts = Counter(
        tuple(spread_uniformly(limits, 2, np.ones(3, np.int64), draws).tolist()) for _ in range(420)
    )
    expected = {(2, 0, 0): 3, (0, 0, 2): 6, (1, 1, 0): 3, (1, 0, 1): 12, (0, 1, 1): 4}  # of 28
    assert set(counts) == set(expected)
    frequencies = [420 * ways / 28 for ways in expected.values()]
    assert chisquare([counts[key] for key in expected], frequencies).pvalue > 1e-4


def test_numbers_beyond_64_bits_are_shared_exactly() -> None:
    limits = np.array([10**12, 10**12, 7])
    weights = np.array([10_000, 5_000, 10_000])
    quotas = spread_uniformly(limits, 3_000, weights, Draws(0))
    assert quotas.sum() == 3_000
    assert abs(quotas[0] - 2_000) <= 1
