from collections import Counter
from typing import Literal

import numpy as np
import pytest
from scipy.stats import chisquare

from headtrain.pairs.rng import PortableRng
from headtrain.pairs.sampler import (
    PairError,
    PairPlan,
    allocate_balanced,
    allocate_uniform,
    sample_pairs,
)

# Three problems with 2x1, 3x2 and 1x4 pairs, and two that have one label only.
CODES = np.array([5, 5, 5, 9, 9, 9, 9, 9, 2, 2, 2, 2, 2, 7, 7, 8])
LABELS = np.array([1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
# Within these, 1, 2 + 1 and 2 + 0 pairs; the last sample of problem 2 has nobody to be compared to.
CLASSES = np.array([0, 0, 3, 1, 1, 0, 1, 0, 4, 4, 4, 3, 5, 0, 0, 0])

OUTPUTS = np.array([1, 2, 3, 4, 5, 6, 4, 5, 1, 1, 1, 2, 3, 8, 9, 8])
"""Two pairs of problem 9 and two of problem 2 have equal outputs."""

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
@pytest.mark.parametrize("classes", [None, CLASSES], ids=["all", "matched"])
@pytest.mark.parametrize(
    "weights", [None, np.where(CODES == 9, 1000, 1)], ids=["alike", "weighted"]
)
@pytest.mark.parametrize("outputs", [None, OUTPUTS], ids=["distinct", "same tokens"])
def test_asking_for_more_than_there_is_gives_every_pair_once(
    strategy: Strategy,
    classes: np.ndarray | None,
    weights: np.ndarray | None,
    outputs: np.ndarray | None,
) -> None:
    options = {"strategy": strategy, "classes": classes, "weights": weights, "outputs": outputs}
    plan = sample_pairs(CODES, LABELS, 1000, seed=0, **options)
    possible = ALL_PAIRS if classes is None else MATCHED_PAIRS
    expected = {(c, i) for c, i in possible if outputs is None or outputs[c] != outputs[i]}
    assert sorted(pairs_of(plan)) == sorted(expected)
    assert plan.num_possible == len(expected)
    assert plan.num_problems == len({CODES[c] for c, _ in expected})
    assert plan.num_equal == len(possible) - len(expected)


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


def test_the_order_of_the_pairs_says_nothing() -> None:
    first = Counter(pairs_of(sample_pairs(CODES, LABELS, 12, seed=s))[0] for s in range(300))
    assert set(first) == ALL_PAIRS
    assert chisquare(list(first.values())).pvalue > 1e-4


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


@pytest.mark.parametrize(
    "name", ["problem_codes", "is_correct", "classes", "weights", "outputs", "sources"]
)
def test_columns_of_another_length_are_refused(name: str) -> None:
    columns = {"problem_codes": CODES, "is_correct": LABELS, name: CODES[:3]}
    with pytest.raises(PairError, match=r"\(3,\).*one length"):
        sample_pairs(n_pairs=4, seed=0, **columns)
    with pytest.raises(PairError, match=rf"\({len(CODES)}, 1\).*one length"):
        sample_pairs(n_pairs=4, seed=0, **columns | {name: CODES[:, None]})


LIMITS = np.array([2, 10, 5, 100])


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (4, [1, 1, 1, 1], [1, 1, 1, 1]),
        (17, [1, 1, 1, 1], [2, 5, 5, 5]),
        (27, [1, 1, 1, 1], [2, 10, 5, 10]),
        (117, [1, 1, 1, 1], [2, 10, 5, 100]),
        (8, [1, 2, 1, 4], [1, 2, 1, 4]),
        # The first is full with 2, so the others share 28 in proportion to 2, 1 and 4.
        (30, [1, 2, 1, 4], [2, 8, 4, 16]),
    ],
)
def test_members_get_their_share_up_to_their_limit(
    total: int, weights: list[int], expected: list[int]
) -> None:
    counts = allocate_balanced(LIMITS, total, np.array(weights), PortableRng(0))
    assert counts.tolist() == expected


def test_the_remainder_is_drawn_in_proportion_to_the_shares() -> None:
    weights, limits = np.array([1, 2, 3, 4]), np.full(4, 9)
    rng = PortableRng(0)
    rounds = [allocate_balanced(limits, 3, weights, rng) for _ in range(1000)]
    assert all(counts.sum() == 3 for counts in rounds)
    assert np.allclose(np.mean(rounds, axis=0), [0.3, 0.6, 0.9, 1.2], atol=0.06)


def test_uniform_allocations_are_hypergeometric() -> None:
    rng, limits = PortableRng(1), np.array([3, 1, 4])
    counts = Counter(
        tuple(allocate_uniform(limits, 2, np.ones(3, np.int64), rng).tolist()) for _ in range(420)
    )
    expected = {(2, 0, 0): 3, (0, 0, 2): 6, (1, 1, 0): 3, (1, 0, 1): 12, (0, 1, 1): 4}  # of 28
    assert set(counts) == set(expected)
    frequencies = [420 * ways / 28 for ways in expected.values()]
    assert chisquare([counts[key] for key in expected], frequencies).pvalue > 1e-4


def test_products_beyond_64_bits_are_allocated_exactly() -> None:
    limits, weights = np.array([10**12, 10**12, 7]), np.array([10_000, 5_000, 10_000])
    counts = allocate_uniform(limits, 3_000, weights, PortableRng(0))
    assert counts.sum() == 3_000
    assert abs(counts[0] - 2_000) <= 1


def test_pairs_that_differ_are_drawn_equally_often() -> None:
    expected = sorted((c, i) for c, i in ALL_PAIRS if OUTPUTS[c] != OUTPUTS[i])
    drawn = Counter[tuple[int, int]]()
    for seed in range(600):
        plan = sample_pairs(CODES, LABELS, 3, seed=seed, strategy="uniform", outputs=OUTPUTS)
        drawn.update(pairs_of(plan))
    assert chisquare([drawn[pair] for pair in expected]).pvalue > 0.001
    assert set(drawn) == set(expected)


def test_outputs_that_all_differ_change_no_pair() -> None:
    plain = sample_pairs(CODES, LABELS, 7, seed=3, classes=CLASSES)
    distinct = sample_pairs(CODES, LABELS, 7, seed=3, classes=CLASSES, outputs=np.arange(16))
    assert pairs_of(plain) == pairs_of(distinct)


def test_a_problem_of_equal_outputs_only_has_no_pairs() -> None:
    outputs = np.where(CODES == 5, 0, np.arange(16))
    plan = sample_pairs(CODES, LABELS, 1000, seed=0, outputs=outputs)
    assert {int(CODES[c]) for c, _ in pairs_of(plan)} == {2, 9}
    assert (plan.num_problems, plan.num_equal) == (2, 2)


def test_nothing_but_equal_outputs_is_an_error_with_a_remedy() -> None:
    with pytest.raises(PairError, match=r"all 12 pairs .* dataset\.max_length"):
        sample_pairs(CODES, LABELS, 5, seed=0, outputs=np.zeros(16, int))


def test_balance_gives_sources_of_different_size_the_same_number_of_pairs() -> None:
    problems = np.repeat(np.arange(10), 8)
    labels = np.tile([True, False], 40)
    sources = np.where(problems < 8, 0, 1)  # 128 and 32 pairs
    plain = sample_pairs(problems, labels, 60, seed=0)
    assert np.bincount(sources[plain.correct]).tolist() == [48, 12]
    plan = sample_pairs(problems, labels, 60, seed=0, sources=sources)
    assert np.bincount(sources[plan.correct]).tolist() == [30, 30]
    plan = sample_pairs(problems, labels, 100, seed=0, sources=sources)
    assert np.bincount(sources[plan.correct]).tolist() == [68, 32]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_pairs": 0}, "n_pairs is 0"),
        ({"n_pairs": 5, "max_pairs_per_problem": -1}, "max_pairs_per_problem is -1"),
        ({"n_pairs": 5, "weights": np.zeros(len(CODES), np.int64)}, "a weight is 0"),
    ],
)
def test_numbers_below_one_are_refused(options, named):
    with pytest.raises(PairError, match=named):
        sample_pairs(CODES, LABELS, seed=0, **options)
