"""The bag of n-grams: what it sees, what it learns, and that it cannot read."""

import numpy as np
import pytest

from headtrain.evaluation import shortcuts
from headtrain.evaluation.shortcuts import NgramJudge, count_ngrams


def made(seed, num_problems=40, *, mark="!"):
    """Two correct and two incorrect outputs a problem; the correct ones have more marks."""
    generator = np.random.default_rng(seed)
    words = ["x", "y", "z", "for", "in", "=", "+"]
    outputs, labels, problems = [], [], []
    for problem in range(num_problems):
        for is_correct in (True, True, False, False):
            body = list(generator.choice(words, 12)) + [mark] * (3 if is_correct else 1)
            outputs.append(" ".join(generator.permutation(body)))
            labels.append(is_correct)
            problems.append(problem)
    labels, problems = np.array(labels), np.array(problems)
    pairs = [
        (i, j)
        for i in np.flatnonzero(labels)
        for j in np.flatnonzero(~labels)
        if problems[i] == problems[j]
    ]
    correct, incorrect = np.array(pairs).T
    return outputs, labels, problems, correct, incorrect


def trained(seed=0):
    outputs, _, problems, correct, incorrect = made(seed)
    return NgramJudge.train(outputs, correct, incorrect, problems[correct], seed=0)


def test_counts_are_of_tokens_signs_and_neighbours():
    rows = count_ngrams(["a+b", "a + b", "a", "A", ""])
    assert (rows[0] != rows[1]).nnz == 0  # white space is no token
    assert rows[0].sum() == pytest.approx(5 * np.log(2))  # a, +, b, a+, +b
    assert (rows[2] != rows[3]).nnz == 2  # case counts
    assert rows[4].nnz == 0
    assert count_ngrams(["a a a"]).max() == pytest.approx(np.log(4))


def test_it_learns_on_pairs_what_tells_unseen_outputs_apart():
    judge = trained()
    outputs, labels, _, correct, incorrect = made(1)
    scores = judge.score(outputs)
    assert np.mean(scores[correct] > scores[incorrect]) > 0.95
    assert scores[labels].mean() > scores[~labels].mean()


def test_it_is_at_chance_where_tokens_tell_nothing():
    outputs, _, _, correct, incorrect = made(2, mark="")
    scores = trained().score([text.replace(" ", "  ") for text in outputs])
    assert np.mean(scores[correct] > scores[incorrect]) == pytest.approx(0.5, abs=0.2)


def test_it_cannot_tell_an_order_of_lines():
    judge = trained()
    assert judge.score(["x = 1\n;"]) == pytest.approx(judge.score(["x  =\n1 ;"]))


def test_equal_pairs_give_an_equal_judge():
    assert (trained().weights == trained().weights).all()


def test_a_single_problem_is_enough_to_learn_from():
    judge = NgramJudge.train(["good", "bad"], np.array([0]), np.array([1]), np.array([7]), seed=0)
    good, bad = judge.score(["good", "bad"])
    assert good > bad
    assert good == pytest.approx(-bad, abs=1e-6)  # a pair says nothing of a mean


def test_the_weights_are_those_of_the_bradley_terry_likelihood():
    """At the optimum the gradient of the loss is the weights over the strength, up to its sign."""
    outputs, _, _, correct, incorrect = made(3, num_problems=30)

    rows = count_ngrams(outputs)
    difference = rows[correct] - rows[incorrect]
    weights = shortcuts._fit(difference, 0.3)
    margin = difference @ weights
    # every pair stands in the sum twice, once turned round
    gradient = -2 * difference.T @ (1 / (1 + np.exp(margin))) * 0.3 + weights
    assert np.abs(gradient).max() < 0.02 * np.abs(weights).max()
