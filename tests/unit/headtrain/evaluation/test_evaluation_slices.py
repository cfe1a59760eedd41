"""Parts of the pairs: every count against an enumeration of the pairs."""

from itertools import pairwise

import numpy as np
import pytest
from headtrain.evaluation.slices.agreement import count_agreement
from headtrain.evaluation.slices.dominance import WaveletMatrix
from headtrain.evaluation.slices.lengths import PairWindows, difference_edges, ranks_within
from headtrain.evaluation.slices.minimal import MOST_OF_A_LABEL, find_near_pairs, near_tally
from headtrain.evaluation.slices.problems import group_counts, group_problems, problem_values

from headtrain.metrics.pairwise import ScoredSamples


def simulated(seed, num_samples=120, num_problems=7, *, longest=40):
    """Return samples of problems in no order, with many tied scores and lengths."""
    generator = np.random.default_rng(seed)
    return ScoredSamples(
        scores=generator.integers(0, 8, num_samples) / 4,
        is_correct=generator.random(num_samples) < 0.4,
        problem=generator.integers(-3, num_problems - 3, num_samples),
        output_tokens=generator.integers(1, longest, num_samples),
    )


def pairs(scored):
    """List all (correct, incorrect) places of the same problem."""
    return [
        (i, j)
        for i in np.flatnonzero(scored.is_correct)
        for j in np.flatnonzero(~scored.is_correct)
        if scored.problem[i] == scored.problem[j]
    ]


def listed_tally(scored, kept):
    """Wins and pairs of each problem, pair by pair."""
    names = np.unique(scored.problem).tolist()
    wins, counts = np.zeros(len(names)), np.zeros(len(names), int)
    for i, j in kept:
        margin = scored.scores[i] - scored.scores[j]
        place = names.index(scored.problem[i])
        wins[place] += 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
        counts[place] += 1
    return wins.tolist(), counts.tolist()


@pytest.mark.parametrize("largest", [0, 1, 7, 8, 1000])
def test_counts_below_are_those_of_a_scan(largest):
    generator = np.random.default_rng(largest)
    values = generator.integers(0, largest + 1, 50)
    matrix = WaveletMatrix(values)
    begin = generator.integers(0, 51, 300)
    end = np.maximum(begin, generator.integers(0, 51, 300))
    bound = generator.integers(0, int(values.max()) + 2, 300)
    expected = [int((values[a:b] < c).sum()) for a, b, c in zip(begin, end, bound, strict=True)]
    assert matrix.count_below(begin, end, bound).tolist() == expected


def test_nothing_can_be_counted_in_nothing():
    nothing = np.zeros(3, np.int64)
    assert WaveletMatrix(nothing[:0]).count_below(nothing, nothing, nothing).tolist() == [0, 0, 0]


def test_ranks_within_groups_are_dense_and_shared_by_ties():
    groups = np.array([5, 2, 5, 5, 2, 5])
    values = np.array([3.0, 9.0, 1.0, 3.0, 9.0, 8.0])
    assert ranks_within(groups, values).tolist() == [1, 0, 0, 1, 0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_tallies_by_length_difference_are_those_of_a_list_of_pairs(seed):
    scored = simulated(seed)
    windows = PairWindows.of(scored)
    edges = [None, -10, 0, 1, 12, None]
    bounds = list(pairwise(edges))
    tallies = windows.tally(scored, [windows.differing_by(*pair) for pair in bounds])
    for (low, high), tally in zip(bounds, tallies, strict=True):
        kept = [
            (i, j)
            for i, j in pairs(scored)
            if (low is None or scored.output_tokens[i] - scored.output_tokens[j] >= low)
            and (high is None or scored.output_tokens[i] - scored.output_tokens[j] < high)
        ]
        assert (tally.wins.tolist(), tally.num_pairs.tolist()) == listed_tally(scored, kept)
    assert sum(tally.total for tally in tallies) == len(pairs(scored))


@pytest.mark.parametrize("tolerance", [0.1, 0.25, 0.5])
def test_matched_pairs_are_those_of_about_one_length(tolerance):
    scored = simulated(1, longest=60)
    windows = PairWindows.of(scored)
    tally = windows.tally(scored, [windows.matched(tolerance)])[0]
    kept = [
        (i, j)
        for i, j in pairs(scored)
        if max(scored.output_tokens[[i, j]]) <= (1 + tolerance) * min(scored.output_tokens[[i, j]])
    ]
    assert 0 < len(kept) < len(pairs(scored))
    assert (tally.wins.tolist(), tally.num_pairs.tolist()) == listed_tally(scored, kept)


def test_samples_of_one_label_have_no_windows():
    scored = ScoredSamples(
        scores=np.arange(3.0),
        is_correct=np.ones(3, bool),
        problem=np.zeros(3, int),
        output_tokens=np.array([1, 2, 3]),
    )
    windows = PairWindows.of(scored)
    assert windows.tally(scored, [windows.differing_by(None, None)])[0].total == 0


def test_edges_part_the_pairs_into_about_equal_shares():
    scored = simulated(3, num_samples=4000, num_problems=40, longest=400)
    edges = difference_edges(scored, num_bins=4)
    lengths = scored.output_tokens
    differences = np.array([lengths[i] - lengths[j] for i, j in pairs(scored)])
    shares = np.bincount(np.searchsorted(edges, differences, side="right")) / len(differences)
    assert len(edges) == 3
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_of_two_judges_is_that_of_a_list_of_pairs(seed):
    first = simulated(seed)
    second = first.with_scores(np.random.default_rng(seed + 50).integers(0, 5, len(first)))
    agreement = count_agreement(first, second)
    names = np.unique(first.problem).tolist()
    expected = np.zeros((4, len(names)), int)
    for i, j in pairs(first):
        one, two = (judge.scores[i] > judge.scores[j] for judge in (first, second))
        expected[:, names.index(first.problem[i])] += [one and two, one, two, 1]
    found = [agreement.both, agreement.first, agreement.second, agreement.num_pairs]
    assert np.array(found).tolist() == expected.tolist()
    assert agreement.only_first.tolist() == (expected[1] - expected[0]).tolist()
    assert agreement.only_second.tolist() == (expected[2] - expected[0]).tolist()


def test_a_problem_has_the_value_its_samples_share():
    values = np.array(["easy", "hard", None, "easy", "hard", None], dtype=object)
    problem = np.array([4, 1, 0, 4, 4, 0])
    assert problem_values(values, problem).tolist() == ["unknown", "hard", "mixed"]


def test_few_kinds_are_shown_as_they_are_numbers_by_size():
    groups = group_problems(np.array(["10", "9", "unknown", "10"], dtype=object))
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "9": [False, True, False, False],
        "10": [True, False, False, True],
        "unknown": [False, False, True, False],
    }
    assert list(groups) == ["9", "10", "unknown"]


def test_many_numbers_become_ranges_that_hold_every_problem_once():
    ratings = np.array([str(800 + 100 * place) for place in range(28)] + ["unknown"], dtype=object)
    groups = group_problems(ratings)
    ranges = ["800 to 1400", "1500 to 2100", "2200 to 2700", "2800 to 3500"]
    assert list(groups) == [*ranges, "unknown"]
    assert np.sum(list(groups.values()), axis=0).tolist() == [1] * 29


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
    """Levenshtein by the textbook's table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def test_near_pairs_are_those_of_the_textbooks_edit_distance():
    generator = np.random.default_rng(0)
    base = "for i in range(n): total += i"
    texts = []
    for _ in range(60):
        letters = list(base)
        for _ in range(generator.integers(0, 8)):
            letters[generator.integers(len(letters))] = "xyz"[generator.integers(3)]
        texts.append("".join(letters) + "!" * generator.integers(0, 3))
    scored = simulated(2, num_samples=60)
    near = find_near_pairs(
        scored, lambda places: [texts[p] for p in places], largest_share=0.2, most_texts=1000
    )
    expected = [
        (i, j)
        for i, j in pairs(scored)
        if edit_distance(texts[i], texts[j]) <= 0.2 * max(len(texts[i]), len(texts[j]))
    ]
    found = sorted(zip(near.correct.tolist(), near.incorrect.tolist(), strict=True))
    assert 0 < len(expected) < len(pairs(scored))
    assert found == sorted(expected)
    tally = near_tally(scored, near)
    assert (tally.wins.tolist(), tally.num_pairs.tolist()) == listed_tally(scored, expected)


def test_the_texts_read_for_near_pairs_are_bounded():
    scored = simulated(4, num_samples=400, num_problems=3)
    read = []

    def outputs(places):
        read.append(len(places))
        return ["same"] * len(places)

    near = find_near_pairs(scored, outputs, largest_share=0.1, most_texts=130)
    assert read == [MOST_OF_A_LABEL] * 4  # of a third problem there would be 64 more
    assert len(near.correct) == 2 * MOST_OF_A_LABEL**2
    none = find_near_pairs(scored, outputs, largest_share=0.1, most_texts=10)
    assert len(none.correct) == 0
