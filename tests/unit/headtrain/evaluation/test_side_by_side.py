"""Several heads on the same pairs: every number is that of comparing two of them."""

import numpy as np
import pytest

from headtrain.evaluation.comparison import LETTERS, compare, compare_all
from headtrain.metrics.pairwise import EvaluationError
from tests.support.simulated_splits import SETTINGS, simulated


def judges(number):
    first = simulated(0)
    noise = np.random.default_rng(1).normal(size=(number - 1, len(first)))
    return [first, *(first.with_scores(0.5 * first.scores + one) for one in noise)]


def test_every_difference_is_that_of_the_two_heads_alone():
    scored = judges(3)
    found = compare_all(scored, SETTINGS, seed=3)
    assert list(found.heads) == ["A", "B", "C"]
    for row, one in zip(LETTERS, scored, strict=False):
        for column, other in zip(LETTERS, scored, strict=False):
            if row != column:
                alone = compare(one, other, SETTINGS, seed=3)
                assert found.differences[row][column] == alone.difference
                assert found.heads[row] == alone.heads["A"]
    assert list(found.comparisons) == ["B", "C"]
    assert found.comparisons["C"] == compare(scored[0], scored[2], SETTINGS, seed=3)


def test_a_single_head_has_no_difference():
    found = compare_all(judges(1), SETTINGS)
    assert (found.differences, found.comparisons) == ({"A": {}}, {})


def test_more_heads_than_letters_are_refused():
    with pytest.raises(EvaluationError, match="27 heads are more than 26"):
        compare_all(judges(27), SETTINGS)
