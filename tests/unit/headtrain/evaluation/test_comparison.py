"""Comparison of two heads on the same pairs, against enumeration."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from featurize.data.records import Sample
from headtrain.evaluation.comparison import (
    LETTERS,
    Disagreement,
    compare,
    compare_all,
    find_disagreements,
    read_shared,
)
from headtrain.metrics.pairwise import EvaluationError
from headtrain.report.comparison import comparison_lines, disagreement_text
from tests.support.simulated_splits import SETTINGS, plain_pairs, simulated
from tests.support.synthetic_stores import write_store


def another(scored, seed):
    noise = np.random.default_rng(seed).normal(size=len(scored))
    return scored.with_scores(0.5 * scored.scores + noise)


def test_a_comparison_counts_every_pair_once():
    first = simulated(0)
    second = another(first, 1)
    found = compare(first, second, SETTINGS)
    one = [first.scores[i] > first.scores[j] for i, j in plain_pairs(first)]
    two = [second.scores[i] > second.scores[j] for i, j in plain_pairs(first)]
    assert found.num_pairs == len(one)
    assert found.num_both_right == sum(a and b for a, b in zip(one, two, strict=True))
    assert found.num_both_wrong == sum(not (a or b) for a, b in zip(one, two, strict=True))
    assert found.mcnemar.only_first == sum(a and not b for a, b in zip(one, two, strict=True))
    assert found.mcnemar.only_second == sum(b and not a for a, b in zip(one, two, strict=True))
    difference = found.difference["accuracy_over_pairs"]
    assert difference.estimate == pytest.approx(np.mean(one) - np.mean(two))
    assert difference.low < difference.estimate < difference.high
    assert found.problems_won + found.problems_lost <= found.num_problems


def test_the_difference_is_paired_and_so_narrower_than_either_accuracy():
    first = simulated(2, num_problems=60)
    second = first.with_scores(first.scores + 0.05 * np.random.default_rng(0).normal(size=480))
    found = compare(first, second, SETTINGS)

    def width(interval):
        return interval.high - interval.low

    own = found.heads["A"]["accuracy_over_problems"]
    assert width(found.difference["accuracy_over_problems"]) < 0.4 * width(own)


def test_a_head_differs_from_itself_in_nothing():
    first = simulated(3)
    found = compare(first, first, SETTINGS)
    difference = found.difference["accuracy_over_problems"]
    assert (difference.low, difference.estimate, difference.high) == (0, 0, 0)
    assert (found.wins, found.losses, found.mcnemar.p_value) == ((), (), 1.0)
    assert (found.problems_won, found.problems_lost) == (0, 0)


def test_swapping_the_heads_swaps_everything():
    first = simulated(4)
    second = another(first, 5)
    forward, backward = compare(first, second, SETTINGS), compare(second, first, SETTINGS)
    assert forward.difference["accuracy_over_pairs"].estimate == pytest.approx(
        -backward.difference["accuracy_over_pairs"].estimate
    )
    assert [pair.correct for pair in forward.wins] == [pair.correct for pair in backward.losses]
    assert (forward.problems_won, forward.problems_lost) == (
        backward.problems_lost,
        backward.problems_won,
    )


def test_other_samples_are_refused():
    with pytest.raises(EvaluationError, match="the same samples"):
        compare(simulated(0), simulated(1), SETTINGS)


def test_disagreements_are_the_widest_of_each_problem():
    first = simulated(6)
    second = another(first, 7)
    found = find_disagreements(first, second, 100)
    assert len(found) > 3
    problems = first.problem[[pair.correct for pair in found]]
    assert len(set(problems)) == len(found)
    widths = [pair.first_margin - pair.second_margin for pair in found]
    assert widths == sorted(widths, reverse=True)
    for pair, width in zip(found, widths, strict=True):
        assert first.is_correct[pair.correct]
        assert not first.is_correct[pair.incorrect]
        assert first.scores[pair.correct] > first.scores[pair.incorrect]
        assert second.scores[pair.correct] < second.scores[pair.incorrect]
        scales = [margin_scale(judge) for judge in (first, second)]
        rivals = [
            (first.scores[i] - first.scores[j]) / scales[0]
            - (second.scores[i] - second.scores[j]) / scales[1]
            for i, j in plain_pairs(first)
            if first.problem[i] == first.problem[pair.correct]
        ]
        assert width == pytest.approx(max(rivals))
    assert find_disagreements(first, second, 2) == found[:2]


def margin_scale(scored):
    groups = [scored.scores[scored.problem == name] for name in np.unique(scored.problem)]
    return np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / len(scored))


class FixedHead:
    """A head whose values are given."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    def score(self, store):
        assert len(self.values) == store.samples.num_rows
        return self.values


def test_heads_on_stores_of_their_own_are_matched_by_task_id(tmp_path: Path):
    here = write_store(tmp_path / "a", num_problems=3, samples_per_problem=4)
    there = write_store(tmp_path / "b", num_problems=2, samples_per_problem=4, units=1)
    shared = read_shared([(FixedHead(range(12)), here), (FixedHead(range(100, 108)), there)])
    assert shared.scored[0].scores.tolist() == list(range(8))
    assert shared.scored[1].scores.tolist() == list(range(100, 108))
    assert shared.task_ids.to_pylist() == [f"task-{place:05d}" for place in range(8)]
    assert shared.num_left_out == 4


def test_stores_that_disagree_about_a_label_are_refused(tmp_path: Path):
    here = write_store(tmp_path / "a", num_problems=1)
    labels = [True] * 8
    there = write_store(tmp_path / "b", num_problems=1, labels=labels)
    with pytest.raises(EvaluationError, match="'task-00000' has different labels in"):
        read_shared([(FixedHead(range(8)), here), (FixedHead(range(8)), there)])


def sample(**texts):
    return Sample(
        **({"instruction": "Sort.", "output": "x", "problem_id": "p", "task_id": "t"} | texts),
        is_correct=True,
        difficulty=None,
        source=None,
        language=None,
        location="file:1",
    )


def test_code_on_the_terminal_gives_no_commands_and_no_markup():
    evil = "\x1b]0;owned\x07\x1b[31m[bold]print[/bold](1)\x9b2J\u202e\u200b\r\tdone"
    pair = Disagreement(correct=0, incorrect=1, first_margin=1.0, second_margin=-1.0)
    text = disagreement_text(
        "A", pair, sample(output=evil), sample(instruction=evil, problem_id=evil)
    )
    shown = io.StringIO()
    Console(file=shown, width=200, force_terminal=False).print(text)
    assert "[bold]print[/bold](1)" in shown.getvalue()
    dangerous = [
        c for c in shown.getvalue() if (ord(c) < 32 and c not in "\n\t") or c in "\x9b\u202e\u200b"
    ]
    assert dangerous == []


def test_the_lines_have_the_numbers():
    first = simulated(8)
    found = compare(first, another(first, 9), SETTINGS)
    lines = comparison_lines(found)
    assert f"by A only {found.mcnemar.only_first:,}" in lines[0]
    assert f"p = {found.mcnemar.p_value:.3g}" in lines[1]
    assert f"A better in {found.problems_won}" in lines[2]


def several(number):
    first = simulated(0)
    return [first, *(another(first, seed) for seed in range(1, number))]


def test_every_difference_is_that_of_the_two_heads_alone():
    scored = several(3)
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
    found = compare_all(several(1), SETTINGS)
    assert (found.differences, found.comparisons) == ({"A": {}}, {})


def test_more_heads_than_letters_are_refused():
    with pytest.raises(EvaluationError, match="27 heads are more than 26"):
        compare_all(several(27), SETTINGS)
