"""One problem on the terminal: the ranking, and the best program beside the worst."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from headtrain.evaluation.problems import Candidate, Problem
from headtrain.report.ranking import (
    MOST_CANDIDATES,
    programs_table,
    ranking_table,
    side_by_side,
    statement_lines,
)

LINES = st.lists(st.sampled_from(["a", "b", "    c", ""]), max_size=8)


def candidate(rank: int, *, is_correct: bool = True, output: str | None = None) -> Candidate:
    return Candidate(
        rank=rank,
        task_id=f"task {rank}",
        is_correct=is_correct,
        score=1.0 - rank,
        probability=0.25,
        output=output,
    )


def problem(*candidates: Candidate, instruction: str = "Add.") -> Problem:
    return Problem(
        problem_id="P/1",
        instruction=instruction,
        accuracy=0.75,
        num_pairs=4,
        candidates=candidates,
        wrong=None,
    )


def shown(table: Table) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(table)
    return file.getvalue()


@given(LINES, LINES)
def test_both_programs_can_be_read_from_their_columns(left: list[str], right: list[str]):
    rows = list(side_by_side("\n".join(left), "\n".join(right)))
    first, second = "\n".join(left).splitlines(), "\n".join(right).splitlines()
    assert [row.left for row in rows if row.sign != ">"] == first
    assert [row.right for row in rows if row.sign != "<"] == second
    assert all((row.left == row.right) for row in rows if not row.sign)


def test_the_table_shows_rank_value_probability_and_label():
    text = shown(ranking_table(problem(candidate(1), candidate(2, is_correct=False))))
    assert "P/1: 75% of 4 pairs in order" in text
    [first] = [line for line in text.splitlines() if "task 1" in line]
    assert [cell.strip() for cell in first.strip("│").split("│")] == [
        *("1", "0.000", "0.250", "correct", "task 1")
    ]
    assert "│ incorrect │ task 2" in text


@pytest.mark.parametrize("number", [MOST_CANDIDATES, MOST_CANDIDATES + 1, 50])
def test_of_many_outputs_the_best_and_the_worst_are_listed(number: int):
    text = shown(ranking_table(problem(*(candidate(rank) for rank in range(1, number + 1)))))
    rows = [line for line in text.splitlines() if "task" in line]
    assert len(rows) == MOST_CANDIDATES
    assert "task 1 " in rows[0]
    assert f"task {number} " in rows[-1]
    assert (f"{number - MOST_CANDIDATES} more" in text) is (number > MOST_CANDIDATES)


def test_the_best_is_beside_the_worst_in_80_columns_with_long_lines_folded():
    best = candidate(1, output="def f():\n    return 1\n")
    worst = candidate(2, is_correct=False, output=f"def f():\n    return {'x' * 60}\n")
    text = shown(programs_table(problem(best, worst)))
    assert {len(line) for line in text.splitlines()} == {80}
    assert "rank 1, correct, value 0.000" in text
    assert "rank 2, incorrect, value -1.000" in text
    assert "    return 1" in text
    assert text.count("x") == 60
    [changed] = [line for line in text.splitlines() if "return 1" in line]
    assert changed.split("│")[2] == "|"


def test_a_long_statement_is_cut_and_says_so():
    lines = [f"line {number}" for number in range(20)]
    found = statement_lines(problem(candidate(1), instruction="\n".join(lines)))
    assert found == [*lines[:16], "... (4 more lines)"]
    assert statement_lines(problem(candidate(1), instruction="\n".join(lines[:16]))) == lines[:16]
