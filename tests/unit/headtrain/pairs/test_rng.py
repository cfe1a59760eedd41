from collections import Counter

import numpy as np
from scipy.stats import chisquare

from headtrain.pairs.rng import PortableRng, mix_seed


def test_the_numbers_of_a_seed_never_change() -> None:
    rng = PortableRng(42)
    limits = np.array([10, 10, 1000, 2**62])
    assert rng.integers(limits).tolist() == [0, 5, 132, 3640797520390555789]
    assert rng.permutation(5).tolist() == [0, 4, 2, 3, 1]
    subsets = rng.subsets(np.array([5, 1000]), np.array([4, 3]))
    assert subsets.tolist() == [0, 1, 3, 4, 546, 899, 938]
    assert mix_seed(7, 3, 1) == 8612084309167925299


def test_integers_are_uniform() -> None:
    numbers = PortableRng(0).integers(np.full(7000, 7))
    assert chisquare(np.bincount(numbers, minlength=7)).pvalue > 1e-4


def test_the_range_is_cut_to_a_multiple_of_the_limit() -> None:
    # Of 2^64 numbers, twice as many have a remainder below 2^62 as have one in each third above.
    numbers = PortableRng(0).integers(np.full(3000, 3 * 2**62, dtype=np.uint64))
    thirds = np.bincount((numbers.astype(np.uint64) >> np.uint64(62)).astype(int), minlength=3)
    assert chisquare(thirds).pvalue > 1e-4


def test_subsets_of_each_group_are_uniform() -> None:
    limits, counts = np.array([5, 6, 9]), np.array([3, 2, 0])  # one by shuffling, one by rejection
    numbers = PortableRng(3).subsets(np.tile(limits, 3000), np.tile(counts, 3000))
    found = numbers.reshape(3000, 5).tolist()
    dense = Counter(tuple(five[:3]) for five in found)
    sparse = Counter(tuple(five[3:]) for five in found)
    assert (len(dense), len(sparse)) == (10, 15)
    assert all(len(set(subset)) == len(subset) for subset in [*dense, *sparse])
    assert chisquare(list(dense.values())).pvalue > 1e-4
    assert chisquare(list(sparse.values())).pvalue > 1e-4


def test_a_subset_of_a_huge_range_takes_little_memory() -> None:
    numbers = PortableRng(0).subsets(np.array([2**60, 2**60]), np.array([50_000, 3]))
    assert len(np.unique(numbers[:50_000])) == 50_000
    assert numbers.max() < 2**60


def test_permutations_are_uniform() -> None:
    orders = Counter(tuple(PortableRng(seed).permutation(3).tolist()) for seed in range(600))
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > 1e-4


def test_neighbouring_seeds_have_nothing_in_common() -> None:
    seeds = {mix_seed(seed, step, use) for seed in range(5) for step in range(50) for use in (0, 1)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)
