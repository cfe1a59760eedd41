from collections import Counter

import numpy as np
from scipy.stats import chisquare

from headtrain.pairs.rng import Draws


def test_the_numbers_of_a_seed_never_change() -> None:
    draws = Draws(42)
    assert draws.below(np.array([10, 10, 1000, 2**62])).tolist() == [0, 5, 132, 3640797520390555789]
    assert draws.order(5).tolist() == [0, 4, 2, 3, 1]
    distinct = draws.distinct(np.array([5, 1000]), np.array([4, 3]))
    assert distinct.tolist() == [0, 1, 3, 4, 546, 899, 938]


def test_numbers_below_a_limit_are_equally_likely() -> None:
    numbers = Draws(0).below(np.full(7000, 7))
    assert chisquare(np.bincount(numbers, minlength=7)).pvalue > 1e-4


def test_the_range_is_cut_to_a_multiple_of_the_limit() -> None:
    # Of 2^64 numbers, twice as many have a remainder below 2^62 as have one in each third above.
    numbers = Draws(0).below(np.full(3000, 3 * 2**62, dtype=np.uint64))
    thirds = np.bincount((numbers.astype(np.uint64) >> np.uint64(62)).astype(int), minlength=3)
    assert chisquare(thirds).pvalue > 1e-4


def test_distinct_numbers_are_a_random_subset_of_each_group() -> None:
    limits, counts = np.array([5, 6, 9]), np.array([3, 2, 0])  # one listed, one by repeats
    numbers = Draws(3).distinct(np.tile(limits, 3000), np.tile(counts, 3000))
    found = numbers.reshape(3000, 5).tolist()
    dense = Counter(tuple(five[:3]) for five in found)
    sparse = Counter(tuple(five[3:]) for five in found)
    assert (len(dense), len(sparse)) == (10, 15)
    assert all(len(set(subset)) == len(subset) for subset in [*dense, *sparse])
    assert chisquare(list(dense.values())).pvalue > 1e-4
    assert chisquare(list(sparse.values())).pvalue > 1e-4


def test_distinct_numbers_of_a_huge_range_take_little_memory() -> None:
    numbers = Draws(0).distinct(np.array([2**60, 2**60]), np.array([50_000, 3]))
    assert len(np.unique(numbers[:50_000])) == 50_000
    assert numbers.max() < 2**60


def test_an_order_is_a_permutation() -> None:
    orders = Counter(tuple(Draws(seed).order(3).tolist()) for seed in range(600))
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > 1e-4
