"""The fast way to read rows never says anything else than the careful one."""

import json
from typing import Any

import msgspec
import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.data.lines import PLAIN_ERRORS, LineParser, PlainRow
from featurize.data.notes import Notes
from featurize.data.plain import plain_columns

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["a", 'x", "output": "y', '"instruction": "a",', "\\", '\\",', " \n", "é\u2028"]
)
scalars = (
    texts
    | st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
keys = st.sampled_from(["instruction", "output", "input", "task_id", "x"])
objects = st.lists(st.tuples(keys, texts | values), max_size=5)  # a key may come twice
spaces = st.sampled_from(["", " ", "\t"])


def to_line(members: list[tuple[str, Any]], space: str, is_ascii: bool) -> str:
    parts = [
        f"{json.dumps(key)}{space}:{space}{json.dumps(value, ensure_ascii=is_ascii)}"
        for key, value in members
    ]
    return "{" + f"{space},{space}".join(parts) + "}\n"


def parse_whole(lines: list[bytes]) -> list[PlainRow] | None:
    try:
        for line in lines:  # a key that comes twice is right both times, or the line is not plain
            msgspec.json.decode(line, type=PlainRow)
        return [msgspec.convert(orjson.loads(line), PlainRow) for line in lines]
    except (orjson.JSONDecodeError, *PLAIN_ERRORS):
        return None


def parse_in_parts(lines: list[bytes]) -> list[PlainRow] | None:
    try:
        return LineParser().parse_all(lines)
    except PLAIN_ERRORS:
        return None


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(objects, min_size=1, max_size=4),
    order=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    space=spaces,
    is_ascii=st.booleans(),
)
def test_lines_in_parts_are_the_lines_as_a_whole(rows, order, space, is_ascii):
    lines = [to_line(rows[n % len(rows)], space, is_ascii).encode() for n in order]
    assert parse_in_parts(lines) == parse_whole(lines)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(objects, min_size=1, max_size=2),
    cut=st.integers(0, 200),
    length=st.integers(0, 3),
    put=st.sampled_from([b"", b",", b"}", b"{", b'"', b"\\", b"[", b":", b" "]),
)
def test_a_line_with_a_fault_is_taken_in_parts_only_if_it_is_as_a_whole(rows, cut, length, put):
    lines = [to_line(row, " ", True).encode() for row in rows]
    last = lines[-1][:-1]
    cut %= len(last)
    bad = last[:cut] + put + last[cut + length :] + b"\n"
    assert parse_in_parts([*lines, bad, lines[0]]) == parse_whole([*lines, bad, lines[0]])


ROW = st.fixed_dictionaries(
    {},
    optional={
        "instruction": texts | values,
        "output": texts | values,
        "input": texts | values,
        "is_correct": st.booleans() | st.none() | values,
        "problem_id": texts | values,
        "task_id": texts | values,
        "metadata": values
        | st.fixed_dictionaries({}, optional={"language": values, "source": scalars}),
        "chosen": values,
    },
)
MOSTLY_GOOD = ROW.map(lambda row: {"instruction": "a", "output": "b"} | row) | ROW


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(MOSTLY_GOOD, min_size=1, max_size=4))
def test_rows_by_column_are_the_rows_one_by_one(rows):
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    careful = Notes()
    careful.add_any(lines, offset=0)
    parsed = parse_in_parts(lines)
    columns = parsed and plain_columns(parsed)
    if columns is None:
        is_plain = all(isinstance(row.get("instruction"), str) for row in rows)
        assert careful.kinds or not is_plain, "good plain rows went the slow way"
        return
    fast = Notes()
    fast.add_plain(columns, np.array([len(line) for line in lines]), offset=0)
    assert not careful.kinds
    assert fast.to_table().equals(careful.to_table())
