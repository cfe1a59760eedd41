"""Whatever lines hold, the fast ways to read them give what the careful way gives."""

import json
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurize.data.records import RowReader
from featurize.data.scan import Chunk, scan_chunk
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


ODD_LINES = st.sampled_from(
    [
        b"", b" ", b"{}", b"{", b"}", b"5", b'{"instruction": "a",', b'"output": "b"}',
        b'{"instruction": "a", "output": "b"}{"instruction": "a", "output": "c"}',
        b'{"instruction": "a", "output": "b"} ',
        b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
    ]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(ROWS.map(lambda row: json.dumps(row).encode()) | ODD_LINES, min_size=1),
    end=st.sampled_from([b"\n", b"\r\n"]),
    has_last_end=st.booleans(),
)
@example(lines=[ODD_LINES.elements[8], b""], end=b"\n", has_last_end=True)
def test_a_chunk_is_read_as_its_lines_are_one_by_one(lines, end, has_last_end):
    content = end.join(lines) + (end if has_last_end else b"") or b"\n"
    samples, faults = [], []
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        found = [] if line.isspace() else carefully(line)
        if isinstance(found, str):
            faults.append((number, found))
            continue
        for part, facts in enumerate(found, start=len(found) > 1):
            sample, key, num_chars, output_key, _ = facts
            samples.append((number, len(line), part, sample.task_id, key, num_chars, output_key))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(content)
        scanned = scan_chunk(Chunk(path, 0, 0, len(content)), RowReader())
    places = ("line", "length", "part")
    names = (*places, "task_id", "prompt_key", "prompt_chars", "output_key")
    columns = [scanned.samples[name].to_pylist() for name in names]
    assert list(zip(*columns, strict=True)) == samples
    assert scanned.faults == faults[: len(scanned.faults)]
    assert sum(scanned.kinds.values()) == len(faults)
    assert scanned.num_lines == content.count(b"\n") + (not content.endswith(b"\n"))
