"""Rewritten copies of programs: the same results, the same label, another text."""

import ast
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
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


@settings(deadline=None)
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


@pytest.mark.parametrize(
    "program",
    [
        "import numpy as np\ndef f(x):\n    return x[np.array(x) == 0]\n",
        "from sympy.abc import *\ndef f(n):\n    return n == 0\n",
        "def f(n):\n    b = n + 1\n    return eval('b')\n",
        "def f(n):\n    def g():\n        return n == 1\n    return g.__code__.co_names\n",
        "def sum(values):\n    return values[0]\ndef f(x):\n    return sum([a for a in x])\n",
        "class A:\n    def __eq__(self, other):\n        return 3\ndef f(x):\n    A() == x\n",
        "def f(n):\n    class A:\n        b = n == 1\n    return A.b\n",
        "def f(n):\n    async def g(x):\n        [a async for a in x]\n    return g(n) == 1\n",
    ],
)
def test_programs_that_the_rules_do_not_foresee_have_no_copies(program: str) -> None:
    assert rewrite(program, 4) == []


@pytest.mark.parametrize(
    ("program", "given"),
    [
        ("def f(n):\n    for i in range(n / 2):\n        print(i)\n", 4),
        ("def f(x):\n    x *= 2\n    return x == [1]\n", [1]),
        ("def f(x):\n    y = x\n    x = x * 2\n    return y\n", [1]),
        ("def f(x):\n    t = sum(x)\n    return [sum for sum in x] + [t]\n", [1, 2]),
        (
            "def f(x):\n    first = True\n    t = 0\n    for a in x:\n"
            "        if first or a != last:\n            t += a\n        last = a\n"
            "        first = False\n    return t\n",
            [1, 1, 2],
        ),
        (
            "def f(x):\n    y = []\n    try:\n        y = []\n        for a in x:\n"
            "            y.append(int(a))\n    except ValueError:\n        pass\n    return y\n",
            ["1", "a"],
        ),
        (
            "def f(x):\n    rest = {}\n    match x:\n        case {'a': 1, **rest}:\n"
            "            pass\n    return rest\n",
            {"a": 1, "b": 2},
        ),
    ],
)
def test_copies_fail_and_change_their_arguments_like_the_program(
    program: str, given: object
) -> None:
    def outcome(source: str) -> object:
        names: dict[str, object] = {}
        exec(source, names)
        argument = copy.deepcopy(given)
        try:
            return names["f"](argument), argument  # type: ignore[operator]
        except Exception as error:
            return type(error)

    for rewritten in rewrite(program, 30):
        assert outcome(rewritten) == outcome(program), rewritten


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
