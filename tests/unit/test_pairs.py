from collections import Counter
from typing import Literal

import numpy as np
import pytest
from scipy.stats import chisquare

from headtrain.pairs import PairError, PairPlan, fill_evenly, sample_pairs

# Three problems with 2x1, 3x2 and 1x4 pairs, and two that have one label only.
CODES = np.array([5, 5, 5, 9, 9, 9, 9, 9, 2, 2, 2, 2, 2, 7, 7, 8])
LABELS = np.array([1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
ALL_PAIRS = {
    (c, i) for c in np.flatnonzero(LABELS) for i in np.flatnonzero(~LABELS) if CODES[c] == CODES[i]
}


def pairs_of(plan: PairPlan) -> list[tuple[int, int]]:
    return list(zip(plan.correct.tolist(), plan.incorrect.tolist(), strict=True))


@pytest.mark.parametrize("strategy", ["balanced", "uniform"])
def test_asking_for_more_than_there_is_gives_every_pair_once(
    strategy: Literal["balanced", "uniform"],
) -> None:
    plan = sample_pairs(CODES, LABELS, 1000, seed=0, strategy=strategy)
    assert len(plan.correct) == 12
    assert set(pairs_of(plan)) == ALL_PAIRS
    assert (plan.num_possible, plan.num_problems) == (12, 3)


def test_uniform_draws_every_combination_equally_often() -> None:
    counts = Counter(
        pair
        for seed in range(3000)
        for pair in pairs_of(sample_pairs(CODES, LABELS, 5, seed=seed, strategy="uniform"))
    )
    assert set(counts) == ALL_PAIRS
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_balanced_draws_evenly_within_each_problem() -> None:
    counts = Counter(
        pair
        for seed in range(3000)
        for pair in pairs_of(sample_pairs(CODES, LABELS, 3, seed=seed, strategy="balanced"))
    )
    for code in (5, 9, 2):
        inside = [number for (c, _), number in counts.items() if CODES[c] == code]
        assert sum(inside) == 3000
        assert chisquare(inside).pvalue > 1e-4


def test_balanced_leaves_the_remainder_to_any_problem() -> None:
    counts = Counter(
        int(CODES[sample_pairs(CODES, LABELS, 1, seed=seed).correct[0]]) for seed in range(1500)
    )
    assert set(counts) == {5, 9, 2}
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_the_order_of_the_pairs_says_nothing() -> None:
    first = Counter(pairs_of(sample_pairs(CODES, LABELS, 12, seed=s))[0] for s in range(3000))
    assert set(first) == ALL_PAIRS
    assert chisquare(list(first.values())).pvalue > 1e-4


def test_balanced_quotas_fill_up_like_water() -> None:
    rng = np.random.default_rng(0)
    limits = np.array([2, 10, 5, 100])
    assert fill_evenly(limits, 4, rng).tolist() == [1, 1, 1, 1]
    assert fill_evenly(limits, 17, rng).tolist() == [2, 5, 5, 5]
    assert fill_evenly(limits, 27, rng).tolist() == [2, 10, 5, 10]
    assert fill_evenly(limits, 117, rng).tolist() == [2, 10, 5, 100]
    assert sorted(fill_evenly(limits, 19, rng).tolist()) in ([2, 5, 6, 6], [2, 5, 5, 7])


def test_a_cap_keeps_a_huge_problem_from_ruling() -> None:
    codes = np.repeat([0, 1], [2000, 4])
    labels = np.arange(2004) % 2 == 0
    uniform = sample_pairs(codes, labels, 500, seed=1, strategy="uniform")
    capped = sample_pairs(codes, labels, 500, seed=1, strategy="uniform", max_pairs_per_problem=3)
    assert np.mean(codes[uniform.correct] == 0) > 0.99
    assert Counter(codes[capped.correct].tolist()) == {0: 3, 1: 3}


def test_the_draw_is_the_same_on_every_machine() -> None:
    plan = sample_pairs(CODES, LABELS, 4, seed=42)
    assert pairs_of(plan) == [(9, 12), (5, 7), (0, 1), (9, 11)]
    assert pairs_of(sample_pairs(CODES, LABELS, 4, seed=43)) != pairs_of(plan)


def test_a_billion_combinations_are_never_listed() -> None:
    codes = np.zeros(70_000, dtype=np.int64)
    labels = np.arange(70_000) < 35_000  # 1.2e9 pairs: a list of them would need 20 GB
    for strategy in ("balanced", "uniform"):
        plan = sample_pairs(codes, labels, 1000, seed=0, strategy=strategy)
        assert plan.num_possible == 35_000**2
        assert len(set(pairs_of(plan))) == 1000


@pytest.mark.parametrize(
    ("codes", "labels"),
    [([0, 0, 1], [True, True, False]), ([], []), ([3], [False])],
)
def test_samples_without_a_problem_of_both_labels_are_refused(
    codes: list[int], labels: list[bool]
) -> None:
    with pytest.raises(PairError, match="both a correct and an incorrect"):
        sample_pairs(np.array(codes, dtype=np.int64), np.array(labels, dtype=bool), 5, seed=0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(PairError, match="must be positive"):
        sample_pairs(CODES, LABELS, 0, seed=0)
    with pytest.raises(PairError, match="must be positive"):
        sample_pairs(CODES, LABELS, 5, seed=0, max_pairs_per_problem=0)
    with pytest.raises(PairError, match="one length"):
        sample_pairs(CODES[:3], LABELS, 5, seed=0)
