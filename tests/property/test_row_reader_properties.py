"""Whatever a line holds, the fast way to read it gives what the careful way gives."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurize.data.records import RowReader
from tests.support.indexed import carefully, read

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["a", 'x", "output": "y', "\\", '\\",', " \n", "é\u2028"]
)
scalars = texts | st.none() | st.booleans() | st.integers(-2, 2) | st.integers() | st.floats()
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
METADATA = st.fixed_dictionaries(
    {},
    optional={name: scalars for name in ("language", "difficulty", "source")}
    | {name: scalars | st.lists(scalars, max_size=2) for name in ("author", "model")},
)
OPTIONAL = {
    "input": texts | values,
    "is_correct": st.booleans() | st.none() | values,
    "problem_id": texts | values,
    "task_id": texts | values,
    "metadata": METADATA | values,
    "chosen": values,
}
ROWS = st.fixed_dictionaries({"instruction": texts, "output": texts}, optional=OPTIONAL)
ODD_ROWS = st.dictionaries(st.sampled_from(["instruction", "output", "x"]), values)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS | ODD_ROWS, min_size=1, max_size=4), is_ascii=st.booleans())
def test_rows_are_read_alike(rows, is_ascii):
    reader = RowReader()
    for row in [*rows, *rows]:
        line = json.dumps(row, ensure_ascii=is_ascii).encode()
        assert read(line, reader) == carefully(line)


@settings(max_examples=150, deadline=None)
@given(
    row=ROWS,
    cut=st.integers(0, 200),
    length=st.integers(0, 3),
    put=st.sampled_from([b"", b",", b"}", b"{", b'"', b"\\", b"[", b":", b" ", b"\xff"]),
)
@example(row={"instruction": "a", "output": "b"}, cut=17, length=0, put=b"\xff")
def test_damaged_lines_are_read_alike(row, cut, length, put):
    line = json.dumps(row).encode()
    cut %= len(line)
    damaged = line[:cut] + put + line[cut + length :]
    assert read(damaged, RowReader()) == carefully(damaged)
