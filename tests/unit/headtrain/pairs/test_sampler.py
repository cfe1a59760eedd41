from collections import Counter
from typing import Literal

import numpy as np
import pytest
from scipy.stats import chisquare

from headtrain.pairs.sampler import PairError, PairPlan, sample_pairs

# Three problems with 2x1, 3x2 and 1x4 pairs, and two that have one label only.
CODES = np.array([5, 5, 5, 9, 9, 9, 9, 9, 2, 2, 2, 2, 2, 7, 7, 8])
LABELS = np.array([1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
# Within these, 1, 2 + 1 and 2 + 0 pairs; the last sample of problem 2 has nobody to be compared to.
CLASSES = np.array([0, 0, 3, 1, 1, 0, 1, 0, 4, 4, 4, 3, 5, 0, 0, 0])

Strategy = Literal["balanced", "uniform"]


def pairs_by_enumeration(classes: np.ndarray) -> set[tuple[int, int]]:
    return {
        (int(c), int(i))
        for c in np.flatnonzero(LABELS)
        for i in np.flatnonzero(~LABELS)
        if CODES[c] == CODES[i] and classes[c] == classes[i]
    }


ALL_PAIRS = pairs_by_enumeration(np.zeros(16, int))
MATCHED_PAIRS = pairs_by_enumeration(CLASSES)


def pairs_of(plan: PairPlan) -> list[tuple[int, int]]:
    return list(zip(plan.correct.tolist(), plan.incorrect.tolist(), strict=True))


@pytest.mark.parametrize("strategy", ["balanced", "uniform"])
def test_asking_for_more_than_there_is_gives_every_pair_once(strategy: Strategy) -> None:
    plan = sample_pairs(CODES, LABELS, 1000, seed=0, strategy=strategy)
    assert len(plan.correct) == 12
    assert set(pairs_of(plan)) == ALL_PAIRS
    assert (plan.num_possible, plan.num_problems) == (12, 3)


@pytest.mark.parametrize("strategy", ["balanced", "uniform"])
def test_classes_allow_exactly_the_pairs_that_agree_in_them(strategy: Strategy) -> None:
    plan = sample_pairs(CODES, LABELS, 1000, seed=0, strategy=strategy, classes=CLASSES)
    assert sorted(pairs_of(plan)) == sorted(MATCHED_PAIRS)
    assert (plan.num_possible, plan.num_problems) == (6, 3)


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["all", "matched"])
def test_uniform_draws_every_combination_equally_often(classes: np.ndarray | None) -> None:
    expected = ALL_PAIRS if classes is None else MATCHED_PAIRS
    counts = Counter(
        pair
        for seed in range(300)
        for pair in pairs_of(
            sample_pairs(CODES, LABELS, 4, seed=seed, strategy="uniform", classes=classes)
        )
    )
    assert set(counts) == expected
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_uniform_draws_every_set_of_pairs_equally_often() -> None:
    codes, labels = CODES[:8], LABELS[:8]
    counts = Counter(
        frozenset(pairs_of(sample_pairs(codes, labels, 2, seed=seed, strategy="uniform")))
        for seed in range(420)
    )
    assert len(counts) == 28  # two of eight
    assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["all", "matched"])
def test_balanced_draws_evenly_within_each_problem(classes: np.ndarray | None) -> None:
    counts = Counter(
        pair
        for seed in range(300)
        for pair in pairs_of(sample_pairs(CODES, LABELS, 3, seed=seed, classes=classes))
    )
    assert set(counts) == (ALL_PAIRS if classes is None else MATCHED_PAIRS)
    for code in (5, 9, 2):
        inside = [number for (c, _), number in counts.items() if CODES[c] == code]
        assert sum(inside) == 300
        assert len(inside) == 1 or chisquare(inside).pvalue > 1e-4


def test_balanced_leaves_the_remainder_to_any_problem() -> None:
    counts = Counter(
        int(CODES[sample_pairs(CODES, LABELS, 1, seed=seed).correct[0]]) for seed in range(360)
    )
    assert set(counts) == {5, 9, 2}
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_a_heavier_problem_gives_more_in_balanced_pairs() -> None:
    weights = np.select([CODES == 9, CODES == 2], [3, 2], 1)
    counts = Counter(
        int(CODES[sample_pairs(CODES, LABELS, 1, seed=seed, weights=weights).correct[0]])
        for seed in range(360)
    )
    observed = [counts[code] for code in (5, 9, 2)]
    assert chisquare(observed, [60, 180, 120]).pvalue > 1e-4
    plan = sample_pairs(CODES, LABELS, 6, seed=0, weights=weights)
    assert Counter(CODES[plan.correct].tolist()) == {5: 1, 9: 3, 2: 2}


def test_a_pair_of_a_heavier_problem_is_likelier_in_uniform_pairs() -> None:
    weights = np.where(CODES == 9, 3, 1)
    counts = Counter(
        pairs_of(sample_pairs(CODES, LABELS, 1, seed=seed, strategy="uniform", weights=weights))[0]
        for seed in range(360)
    )
    observed = [counts[pair] for pair in sorted(ALL_PAIRS)]
    shares = [3 if CODES[c] == 9 else 1 for c, _ in sorted(ALL_PAIRS)]  # 6 of 3, 6 of 1
    assert chisquare(observed, [360 * share / 24 for share in shares]).pvalue > 1e-4


def test_weights_only_share_out_what_there_is() -> None:
    weights = np.where(CODES == 9, 1000, 1)
    for strategy in ("balanced", "uniform"):
        plan = sample_pairs(CODES, LABELS, 1000, seed=0, strategy=strategy, weights=weights)
        assert set(pairs_of(plan)) == ALL_PAIRS


def test_the_order_of_the_pairs_says_nothing() -> None:
    first = Counter(pairs_of(sample_pairs(CODES, LABELS, 12, seed=s))[0] for s in range(300))
    assert set(first) == ALL_PAIRS
    assert chisquare(list(first.values())).pvalue > 1e-4


def test_a_cap_keeps_a_huge_problem_from_ruling() -> None:
    codes = np.repeat([0, 1], [2000, 4])
    labels = np.arange(2004) % 2 == 0
    uniform = sample_pairs(codes, labels, 500, seed=1, strategy="uniform")
    capped = sample_pairs(codes, labels, 500, seed=1, strategy="uniform", max_pairs_per_problem=3)
    assert np.mean(codes[uniform.correct] == 0) > 0.99
    assert Counter(codes[capped.correct].tolist()) == {0: 3, 1: 3}


def test_a_cap_counts_all_classes_of_a_problem_together() -> None:
    codes, labels = np.zeros(40, int), np.arange(40) % 2 == 0
    classes = np.arange(40) // 10
    plan = sample_pairs(codes, labels, 99, seed=0, max_pairs_per_problem=7, classes=classes)
    assert len(plan.correct) == 7
    assert plan.num_possible == 4 * 25


def test_the_draw_is_the_same_on_every_machine() -> None:
    plan = sample_pairs(CODES, LABELS, 4, seed=42)
    assert pairs_of(plan) == [(9, 12), (3, 7), (0, 1), (5, 6)]
    assert pairs_of(sample_pairs(CODES, LABELS, 4, seed=43)) != pairs_of(plan)
    uniform = sample_pairs(CODES, LABELS, 4, seed=42, strategy="uniform", classes=CLASSES)
    assert pairs_of(uniform) == [(5, 7), (0, 1), (3, 6), (9, 8)]


def test_a_billion_combinations_are_never_listed() -> None:
    codes = np.zeros(70_000, dtype=np.int64)
    labels = np.arange(70_000) < 35_000  # 1.2e9 pairs: a list of them would need 20 GB
    for strategy in ("balanced", "uniform"):
        plan = sample_pairs(codes, labels, 1000, seed=0, strategy=strategy)
        assert plan.num_possible == 35_000**2
        assert len(set(pairs_of(plan))) == 1000


@pytest.mark.parametrize(
    ("codes", "labels", "classes"),
    [
        ([0, 0, 1], [True, True, False], None),
        ([], [], None),
        ([3], [False], None),
        ([0, 0], [True, False], [1, 2]),
    ],
)
def test_samples_without_a_problem_of_both_labels_are_refused(
    codes: list[int], labels: list[bool], classes: list[int] | None
) -> None:
    with pytest.raises(PairError, match="both a correct and an incorrect"):
        sample_pairs(
            np.array(codes, dtype=np.int64),
            np.array(labels, dtype=bool),
            5,
            seed=0,
            classes=None if classes is None else np.array(classes),
        )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(PairError, match="must be positive"):
        sample_pairs(CODES, LABELS, 0, seed=0)
    with pytest.raises(PairError, match="must be positive"):
        sample_pairs(CODES, LABELS, 5, seed=0, max_pairs_per_problem=0)
    with pytest.raises(PairError, match="weight is 0; weights must be positive"):
        sample_pairs(CODES, LABELS, 5, seed=0, weights=CODES * 0)
    for wrong in (CODES[:3], CODES[:, None]):
        with pytest.raises(PairError, match="one length"):
            sample_pairs(wrong, LABELS, 5, seed=0)
    with pytest.raises(PairError, match="one length"):
        sample_pairs(CODES, LABELS, 5, seed=0, classes=CODES[:3])
