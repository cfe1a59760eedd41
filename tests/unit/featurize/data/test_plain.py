"""Rows checked column by column give what rows checked one by one give."""

import json

import numpy as np
import pytest

from featurize.data.lines import PLAIN_ERRORS, LineParser
from featurize.data.notes import Notes
from featurize.data.plain import PlainColumns, plain_columns

PLAIN = {"instruction": "a", "output": "b"}


def columns_of(*rows: object) -> PlainColumns | None:
    """Parse rows and take their columns; None where they have to go the other way."""
    try:
        parsed = LineParser().parse_all([json.dumps(row).encode() + b"\n" for row in rows])
    except PLAIN_ERRORS:
        return None
    return plain_columns(parsed)


@pytest.mark.parametrize(
    "row",
    [
        PLAIN,
        PLAIN | {"input": "5", "is_correct": True, "problem_id": "p", "task_id": "t"},
        PLAIN | {"input": None, "is_correct": None, "problem_id": None, "task_id": None},
        PLAIN | {"problem_id": 0, "task_id": 17, "metadata": None},
        PLAIN | {"metadata": {"difficulty": 7, "source": None, "language": "c", "votes": []}},
        PLAIN | {"metadata": {"difficulty": True, "source": 0.0, "language": -0.0}},
        PLAIN | {"metadata": {"difficulty": 1, "source": 1.5, "language": False}},
        PLAIN | {"chosen": 1, "label": 2},
        {"instruction": "größer\u2028", "output": "é\U0001f600"},
    ],
    ids=str,
)
def test_a_plain_row_is_noted_as_it_is_one_by_one(row):
    others = [PLAIN | {"metadata": {"difficulty": 1, "source": "1"}, "problem_id": "0"}, PLAIN]
    rows = [*others, row, *others]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    columns = columns_of(*rows)
    assert columns is not None
    fast, slow = Notes(), Notes()
    fast.add_plain(columns, np.array([len(line) for line in lines]), offset=100)
    slow.add_any(lines, offset=100)
    assert fast.to_table().equals(slow.to_table())
    assert fast.num_lines == slow.num_lines == len(rows)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "a"},
        {"output": "b"},
        PLAIN | {"instruction": None},
        PLAIN | {"instruction": 5},
        PLAIN | {"output": ["b"]},
        PLAIN | {"output": ""},
        PLAIN | {"output": " \n\u2003"},
        PLAIN | {"input": 5},
        PLAIN | {"is_correct": 1},
        PLAIN | {"is_correct": "true"},
        PLAIN | {"problem_id": ""},
        PLAIN | {"problem_id": True},
        PLAIN | {"task_id": " "},
        PLAIN | {"task_id": 1.0},
        PLAIN | {"metadata": "easy"},
        PLAIN | {"metadata": []},
        PLAIN | {"metadata": {"language": ["c"]}},
        PLAIN | {"metadata": {"source": {}}},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completion": "b"},
        ["a"],
        "a",
        None,
    ],
    ids=str,
)
def test_a_row_that_is_not_plain_or_not_right_is_left_alone(row):
    assert columns_of(PLAIN, PLAIN) is not None
    assert columns_of(PLAIN, row) is None
