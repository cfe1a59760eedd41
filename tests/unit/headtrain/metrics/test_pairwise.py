"""Pairwise accuracy against enumeration and scipy, and the samples it refuses."""

from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pytest

from headtrain.metrics.groups import group_codes
from headtrain.metrics.pairwise import (
    EvaluationError,
    ScoredSamples,
    pairwise_accuracy,
    pairwise_counts,
)


def scored(scores, labels, problem=None):
    """Return samples with the given columns; a single problem unless told."""
    num_samples = len(scores)
    return ScoredSamples(
        scores=np.array(scores, dtype=np.float64),
        is_correct=np.array(labels, dtype=bool),
        problem=np.array([0] * num_samples if problem is None else problem, dtype=np.int64),
        output_tokens=np.arange(num_samples),
    )


def random_samples(seed, num_samples=300, num_problems=12, num_levels=9):
    """Return samples with many ties, in no order, some problems with one label only."""
    generator = np.random.default_rng(seed)
    problem = generator.integers(num_problems, size=num_samples) * 7 - 30
    share = generator.choice([0.0, 0.2, 0.5, 0.9, 1.0], size=num_problems)
    labels = generator.random(num_samples) < share[(problem + 30) // 7]
    return scored(generator.integers(num_levels, size=num_samples) / 4, labels, problem)


def enumerated(samples):
    """Return {problem: (wins, pairs)} by looking at every pair."""
    counts = {}
    rows = list(zip(samples.scores, samples.is_correct, samples.problem, strict=True))
    for (score, is_correct, problem), (other_score, other_correct, other_problem) in product(
        rows, rows
    ):
        if problem == other_problem and is_correct and not other_correct:
            wins, pairs = counts.get(problem, (0.0, 0))
            won = 1.0 if score > other_score else 0.5 if score == other_score else 0.0
            counts[problem] = (wins + won, pairs + 1)
    return counts


def test_groups_are_numbered_in_the_order_of_their_keys():
    problems, languages = np.array([7, 2, 7, 2, 7]), np.array([0, 1, -1, 1, 0])
    assert group_codes(problems, languages).tolist() == [2, 0, 1, 0, 2]
    assert group_codes(problems).tolist() == [1, 0, 1, 0, 1]
    assert group_codes(problems[:0], languages[:0]).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_the_enumeration_of_all_pairs(seed):
    samples = random_samples(seed)
    expected = enumerated(samples)
    counts = pairwise_counts(samples)
    assert counts.problem.tolist() == sorted(expected)
    assert counts.wins.tolist() == [expected[code][0] for code in sorted(expected)]
    assert counts.num_pairs.tolist() == [expected[code][1] for code in sorted(expected)]


def test_over_pairs_and_over_problems_weigh_problems_differently():
    # problem 0 wins its 1 pair, problem 1 loses its 3 pairs
    samples = scored([2, 1, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1])
    accuracy = pairwise_accuracy(pairwise_counts(samples))
    assert accuracy.over_pairs == 0.25
    assert accuracy.over_problems == 0.5


def test_negative_and_positive_zero_are_a_tie():
    assert pairwise_counts(scored([-0.0, 0.0], [True, False])).wins.tolist() == [0.5]


def test_wins_stay_exact_where_a_float32_count_would_not():
    size = 20_000
    samples = scored(np.zeros(2 * size), np.arange(2 * size) < size)
    assert pairwise_counts(samples).wins.tolist() == [size * size / 2]


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_a_split_without_any_pair_is_refused(labels):
    with pytest.raises(EvaluationError, match=r"none of the 1 problems \(2 samples\) has both"):
        pairwise_counts(scored([1, 2], labels))


def test_an_empty_split_is_refused():
    with pytest.raises(EvaluationError, match="no labelled samples"):
        pairwise_counts(scored([], []))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_its_index(bad):
    with pytest.raises(EvaluationError, match=rf"score of sample 2 is {bad} \(2 of 4"):
        scored([1, 2, bad, bad], [1, 0, 1, 0])


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(EvaluationError, match="same length"):
        scored([1, 2], [True])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("is_correct", np.array([1, 0])),
        ("is_correct", np.array([True, None])),
        ("problem", np.array([0.5, 1.0])),
        ("output_tokens", np.array([1.0, 2.0])),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_by_name(column, value):
    columns = {
        "scores": np.zeros(2),
        "is_correct": np.array([True, False]),
        "problem": np.zeros(2, dtype=np.int64),
        "output_tokens": np.zeros(2, dtype=np.int64),
    }
    with pytest.raises(EvaluationError, match=f"column {column} is"):
        ScoredSamples(**(columns | {column: value}))


def test_narrow_columns_are_widened():
    samples = ScoredSamples(
        scores=np.array([1, 0], dtype=np.float32),
        is_correct=np.array([True, False]),
        problem=np.zeros(2, dtype=np.uint8),
        output_tokens=np.array([3, 4], dtype=np.int32),
    )
    dtypes = (samples.scores.dtype, samples.problem.dtype, samples.output_tokens.dtype)
    assert dtypes == (np.float64, np.int64, np.int64)


def test_another_judge_keeps_the_samples_and_replaces_the_scores():
    samples = scored([1, 2], [True, False], [3, 3])
    other = samples.with_scores([5, 4])
    assert (samples.scores.tolist(), other.scores.tolist()) == ([1, 2], [5, 4])
    assert other.is_correct is samples.is_correct
    with pytest.raises(EvaluationError, match="same length"):
        samples.with_scores([1])
    with pytest.raises(FrozenInstanceError):
        samples.scores = other.scores
