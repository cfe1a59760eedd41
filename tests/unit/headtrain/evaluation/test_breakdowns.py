"""Groups of problems for breakdowns, and minimal pairs."""

import numpy as np
import pytest

from headtrain.evaluation.breakdowns import (
    MOST_OF_A_LABEL,
    find_minimal_pairs,
    group_counts,
    group_problems,
    problem_values,
)
from tests.support.simulated_splits import simulated


def test_a_problem_has_the_value_its_samples_share():
    values = np.array(["easy", "hard", None, "easy", "hard", None], dtype=object)
    group = np.array([2, 1, 0, 2, 2, 0])
    assert problem_values(values, group).tolist() == ["unknown", "hard", "mixed"]


def test_few_values_are_groups_of_their_own_numbers_by_size():
    groups = group_problems(np.array(["10", "9", "unknown", "10"], dtype=object))
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "9": [False, True, False, False],
        "10": [True, False, False, True],
        "unknown": [False, False, True, False],
    }
    assert list(groups) == ["9", "10", "unknown"]


def test_many_numbers_become_ranges_that_hold_every_problem_once():
    ratings = [str(800 + 100 * place) for place in range(28)]
    groups = group_problems(np.array([*ratings, "mixed", "unknown"], dtype=object))
    ranges = ["800 to 1400", "1500 to 2100", "2200 to 2700", "2800 to 3500"]
    assert list(groups) == [*ranges, "unknown", "mixed"]
    assert np.sum(list(groups.values()), axis=0).tolist() == [1] * 30


def test_of_many_names_the_rare_ones_are_others():
    names = [f"language-{place}" for place in range(20)] + ["python"] * 5
    groups = group_problems(np.array(names, dtype=object))
    assert len(groups) == 12
    assert groups["python"].sum() == 5
    assert groups["others"].sum() == 10
    assert np.sum(list(groups.values()), axis=0).tolist() == [1] * 25


def test_numbers_of_candidates_are_grouped_by_size():
    assert list(group_counts(np.array([4, 8, 4, 16]))) == ["4", "8", "16"]


def edit_distance(first, second):
    """Levenshtein distance by the textbook's table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def test_minimal_pairs_are_those_of_the_textbooks_edit_distance():
    generator = np.random.default_rng(0)
    base = "for i in range(n): total += i"
    texts = []
    for _ in range(64):
        letters = list(base)
        for _ in range(generator.integers(0, 8)):
            letters[generator.integers(len(letters))] = "xyz"[generator.integers(3)]
        texts.append("".join(letters) + "!" * generator.integers(0, 3))
    scored = simulated(2, num_problems=8)
    minimal = find_minimal_pairs(
        scored, lambda places: [texts[p] for p in places], largest_share=0.2, most_texts=1000
    )
    found = list(zip(minimal.correct.tolist(), minimal.incorrect.tolist(), strict=True))
    expected = [
        (i, j)
        for i in np.flatnonzero(scored.is_correct)
        for j in np.flatnonzero(~scored.is_correct & (scored.problem == scored.problem[i]))
        if edit_distance(texts[i], texts[j]) <= 0.2 * max(len(texts[i]), len(texts[j]))
    ]
    assert sorted(found) == sorted(expected)
    assert 0 < len(found) < 100


@pytest.mark.parametrize(("most_texts", "num_problems"), [(1000, 5), (20, 2), (5, 0)])
def test_the_number_of_texts_read_is_bounded(most_texts, num_problems):
    scored = simulated(4, num_problems=5)
    read = []

    def outputs(places):
        read.append(len(places))
        return ["same"] * len(places)

    minimal = find_minimal_pairs(scored, outputs, largest_share=0.1, most_texts=most_texts)
    assert len(read) == 2 * num_problems
    assert sum(read) <= most_texts
    assert (len(minimal.correct) > 0) == (num_problems > 0)
    assert max(read, default=0) <= MOST_OF_A_LABEL
