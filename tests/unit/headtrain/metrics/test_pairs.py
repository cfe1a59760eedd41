"""Metrics of some of the pairs: every count against a plain list of the pairs."""

from dataclasses import replace
from itertools import pairwise
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest

from headtrain.metrics.groups import find_equal_pairs, group_codes
from headtrain.metrics.pairs import (
    count_agreement,
    count_margins,
    length_difference_edges,
    list_pairs,
    mcnemar,
    similar_lengths,
    tally_length_differences,
    tally_pairs,
    widest_pairs,
)
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples, pairwise_counts
from tests.support.simulated_splits import plain_pairs


def simulated(seed, num_samples=120, num_problems=7, *, longest=40):
    """Return samples of problems in no order, with many tied scores and lengths."""
    generator = np.random.default_rng(seed)
    return ScoredSamples(
        scores=generator.integers(0, 8, num_samples) / 4,
        is_correct=generator.random(num_samples) < 0.4,
        problem=generator.integers(-3, num_problems - 3, num_samples),
        output_tokens=generator.integers(1, longest, num_samples),
    )


def plain_tally(scored, kept):
    """Count wins and pairs of each problem, pair by pair."""
    names = np.unique(scored.problem).tolist()
    wins, counts = np.zeros(len(names)), np.zeros(len(names), int)
    for i, j in kept:
        margin = scored.scores[i] - scored.scores[j]
        place = names.index(scored.problem[i])
        wins[place] += 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
        counts[place] += 1
    return wins.tolist(), counts.tolist()


def found(tally):
    return tally.wins.tolist(), tally.num_pairs.tolist()


@pytest.mark.parametrize("at_once", [1, 7, 50, 10_000])
def test_all_pairs_are_listed_once_in_chunks(at_once):
    scored = simulated(0)
    chunks = list(list_pairs(scored, at_once))
    listed = [
        pair for one in chunks for pair in zip(*(column.tolist() for column in one), strict=True)
    ]
    assert sorted(listed) == sorted(plain_pairs(scored))
    partners = np.bincount(scored.group[~scored.is_correct]).max()
    assert max(len(one.correct) for one in chunks) <= max(at_once, partners)


def test_samples_of_one_label_have_no_pairs():
    scored = simulated(0)
    for label in (True, False):
        alone = ScoredSamples(**vars(scored) | {"is_correct": np.full(len(scored), label)})
        assert sum(len(pairs.correct) for pairs in list_pairs(alone)) == 0
        assert tally_length_differences(alone, np.array([0]))[0].total == 0


@pytest.mark.parametrize("seed", range(5))
def test_tallies_by_length_difference_are_those_of_a_list_of_pairs(seed):
    scored = simulated(seed)
    edges = [-10, 0, 1, 12]
    tallies = tally_length_differences(scored, np.array(edges))
    bounds = pairwise([-np.inf, *edges, np.inf])
    for (low, high), tally in zip(bounds, tallies, strict=True):
        lengths = scored.output_tokens
        kept = [(i, j) for i, j in plain_pairs(scored) if low <= lengths[i] - lengths[j] < high]
        assert found(tally) == plain_tally(scored, kept)
    assert sum(tally.total for tally in tallies) == len(plain_pairs(scored))


@pytest.mark.parametrize("tolerance", [0.1, 0.25, 0.5])
def test_matched_pairs_are_those_of_similar_length_for_every_judge(tolerance):
    scored = simulated(1, longest=60)
    lengths = scored.output_tokens
    judges = {"head": scored, "longer": scored.with_scores(lengths)}
    tallies = tally_pairs(judges, map(similar_lengths(tolerance, lengths), list_pairs(scored, 9)))
    kept = [
        (i, j)
        for i, j in plain_pairs(scored)
        if max(lengths[[i, j]]) <= (1 + tolerance) * min(lengths[[i, j]])
    ]
    assert 0 < len(kept) < len(plain_pairs(scored))
    for name, judge in judges.items():
        assert found(tallies[name]) == plain_tally(judge, kept)


def test_a_length_that_fits_exactly_matches():
    lengths = np.array([110, 100, 111])
    scored = ScoredSamples(
        scores=np.zeros(3),
        is_correct=np.array([False, True, False]),
        problem=np.zeros(3, int),
        output_tokens=lengths,
    )
    (pairs,) = map(similar_lengths(0.1, lengths), list_pairs(scored))
    assert (pairs.correct.tolist(), pairs.incorrect.tolist()) == ([1], [0])


def test_edges_split_the_pairs_into_bins_of_about_equal_size():
    scored = simulated(3, num_samples=4000, num_problems=40, longest=400)
    edges = length_difference_edges(scored, num_bins=4)
    assert len(edges) == 3
    shares = [tally.total for tally in tally_length_differences(scored, edges)]
    assert np.array(shares) / sum(shares) == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_of_two_judges_is_that_of_a_list_of_pairs(seed):
    first = simulated(seed)
    second = first.with_scores(np.random.default_rng(seed + 50).integers(0, 5, len(first)))
    agreement = count_agreement(first, second)
    names = np.unique(first.problem).tolist()
    expected = np.zeros((4, len(names)), int)
    for i, j in plain_pairs(first):
        one, two = (judge.scores[i] > judge.scores[j] for judge in (first, second))
        place = names.index(first.problem[i])
        expected[:, place] += [one and two, one and not two, two and not one, 1]
    counts = vars(agreement)
    assert np.array(list(counts.values())).tolist() == expected.tolist()


@pytest.mark.parametrize(("one", "two"), [(0, 0), (3, 9), (9, 3), (5, 5), (0, 12), (70, 50)])
def test_mcnemar_is_the_exact_binomial_test(one, two):
    test = mcnemar(one, two)
    total, low = one + two, min(one, two)
    tail = sum(comb(total, k) for k in range(low + 1)) / 2**total
    assert test.p_value == pytest.approx(min(1.0, 2 * tail))
    if total:
        assert test.p_value == pytest.approx(binomtest(one, total).pvalue)
    assert (test.only_first, test.only_second) == (one, two)


def test_mcnemar_of_millions_of_pairs_is_a_number():
    assert mcnemar(1_000_000, 1_010_000).p_value == pytest.approx(1.7e-12, rel=0.1)


def test_the_widest_pairs_are_the_worst_of_each_problem():
    scored = simulated(4)
    widest = {}
    for i, j in plain_pairs(scored):
        margin = scored.scores[j] - scored.scores[i]
        widest[scored.problem[i]] = max(margin, widest.get(scored.problem[i], 0))
    pairs = widest_pairs(scored, 100)
    margins = scored.scores[pairs.incorrect] - scored.scores[pairs.correct]
    assert margins.tolist() == sorted((m for m in widest.values() if m), reverse=True)
    assert widest_pairs(scored, 2).correct.tolist() == pairs.correct[:2].tolist()


def test_perfect_scores_have_no_widest_pairs():
    scored = simulated(3)
    assert len(widest_pairs(scored.with_scores(scored.is_correct * 1.0), 5).correct) == 0


def with_equal_pairs(seed: int) -> ScoredSamples:
    """Samples of which some pairs have the same tokens on both sides."""
    scored = simulated(seed)
    outputs = np.random.default_rng(seed).integers(0, 6, len(scored))
    codes = group_codes(scored.problem, outputs)
    return replace(scored, equal_pairs=find_equal_pairs(codes, scored.is_correct))


def pairs_compared(scored: ScoredSamples) -> list[tuple[int, int]]:
    left_out = set(map(tuple, scored.equal_pairs.tolist()))
    return [pair for pair in plain_pairs(scored) if pair not in left_out]


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_the_same_tokens_are_not_compared(seed: int) -> None:
    scored = with_equal_pairs(seed)
    expected = pairs_compared(scored)
    assert 0 < len(expected) < len(plain_pairs(scored))
    listed = [pair for pairs in list_pairs(scored, 10) for pair in zip(*pairs, strict=True)]
    assert sorted(listed) == sorted(expected)
    counts = pairwise_counts(scored)
    [tally] = tally_pairs({"judge": scored}, list_pairs(scored)).values()
    wins = [np.sign(scored.scores[c] - scored.scores[i]) / 2 + 0.5 for c, i in expected]
    assert counts.total == tally.total == len(expected)
    assert counts.wins.sum() == tally.wins.sum() == sum(wins)


def test_a_split_of_equal_pairs_alone_cannot_be_judged() -> None:
    scored = simulated(0)
    codes = group_codes(scored.problem)
    scored = replace(scored, equal_pairs=find_equal_pairs(codes, scored.is_correct))
    with pytest.raises(EvaluationError, match="have the same tokens on both sides"):
        pairwise_counts(scored)


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_counted_pair_by_pair(seed):
    scored = simulated(seed)
    found = count_margins(scored, num_bins=9)
    margins = np.array([scored.scores[i] - scored.scores[j] for i, j in plain_pairs(scored)])
    assert found.num_ties == (margins == 0).sum() > 0
    places = np.minimum((np.abs(margins) / found.width).astype(int), 8)
    for counted, side in ((found.wrong, margins < 0), (found.right, margins > 0)):
        assert counted.tolist() == np.bincount(places[side], minlength=9).tolist()
    assert np.abs(margins).max() <= 9 * found.width * (1 + 1e-9)


def test_margins_of_a_constant_judge_are_all_ties():
    scored = simulated(0).with_scores(np.zeros(120))
    found = count_margins(scored)
    assert found.num_ties == len(plain_pairs(scored))
    assert found.wrong.sum() == found.right.sum() == 0
