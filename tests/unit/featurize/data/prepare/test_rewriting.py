"""Rewritten copies of programs: the same results, the same label, another text."""

import ast
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap, LabelValues
from featurize.data.prepare.rewriting import rewrite

PROGRAM = """def median(values, low=0):
    '''The middle.'''
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1 and ordered:
        return ordered[middle]
    total = 0
    for one in ordered[middle - 1:middle + 1]:
        total = total + one
    return total / 2 if ordered else low
"""
BLANK = "SELECT 1;"


def run(program: str, values: list[int]) -> object:
    names: dict[str, object] = {}
    exec(program, names)
    return names["median"](values, low=7)  # type: ignore[operator]


@given(st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=1, max_size=4))
def test_copies_differ_in_text_and_not_in_results(inputs: list[list[int]]) -> None:
    copies = rewrite(PROGRAM, 4)
    assert len({PROGRAM, *copies}) == 5
    for values in inputs:
        assert {run(copy, values) for copy in copies} == {run(PROGRAM, values)}


def test_the_copies_of_a_program_are_always_the_same() -> None:
    assert rewrite(PROGRAM, 3) == rewrite(PROGRAM, 3)
    assert all("low=0" in copy for copy in rewrite(PROGRAM, 8))


def test_what_cannot_be_rewritten_has_no_copies() -> None:
    for program in ("", BLANK, "def f(:", "x = 1", "\x00", "(" * 500):
        assert rewrite(program, 2) == []


def test_rows_get_copies_with_their_label_and_every_other_output_is_counted(
    tmp_path: Path,
) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": "a", "output": PROGRAM, "is_correct": True, "task_id": "t0"},
        {"instruction": "a", "output": BLANK, "is_correct": False, "task_id": "t1"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("out.jsonl", "out.parquet"):
        job = ColumnsJob(
            sources=[str(source)],
            out=tmp_path / name,
            columns=ColumnMap.parse((), LabelValues()),
            copies=2,
        )
        prepared = prepare_columns(job)
        assert prepared.details["rewritten copies"] == "2"
        assert prepared.details["outputs without a copy"] == "1"
        assert (prepared.counts[name].correct, prepared.counts[name].incorrect) == (3, 1)
        assert prepare_columns(job).was_up_to_date
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in written] == ["t0", "t0~1", "t0~2", "t1"]
    assert [row["is_correct"] for row in written] == [True, True, True, False]
    assert [row["metadata"].get("rewrite") for row in written] == [None, "1", "2", None]
    assert written[1]["output"] != written[2]["output"]
    assert ast.parse(written[1]["output"])
