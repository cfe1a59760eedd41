"""The fast way to read a line gives what the careful way gives, bad lines included."""

import json

import pytest

from featurize.data import records
from featurize.data.records import RowReader, check_row
from tests.support.indexed import carefully, read

PLAIN = {"instruction": "a", "output": "b"}


def encode(row: object, **options: bool) -> bytes:
    return json.dumps(row, **options).encode() + b"\n"


@pytest.fixture
def careful_rows(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The rows that took the careful way."""
    rows: list[object] = []
    monkeypatch.setattr(
        records, "check_row", lambda row, **how: rows.append(row) or check_row(row, **how)
    )
    return rows


@pytest.mark.parametrize(
    "row",
    [
        PLAIN,
        PLAIN | {"input": "5", "is_correct": True, "problem_id": "p", "task_id": "t"},
        PLAIN | dict.fromkeys(["input", "is_correct", "problem_id", "task_id", "metadata"]),
        PLAIN | {"problem_id": 0, "task_id": 2**63 - 1},
        PLAIN | {"metadata": {"difficulty": 7, "source": None, "language": "c"}},
        PLAIN | {"metadata": {"difficulty": True, "source": 0.0, "language": -0.0}},
        PLAIN | {"metadata": {"difficulty": 10**24, "other": 1, "author": [3, "b"]}},
        {"output": "é\U0001f600", "instruction": 'größer\u2028 "quoted" \\ \n'},
    ],
    ids=str,
)
def test_a_typed_row_is_read_the_fast_way(row, careful_rows):
    for is_ascii in (True, False):
        line = encode(row, ensure_ascii=is_ascii)
        assert read(line, RowReader()) == carefully(line)
    assert careful_rows == []


@pytest.mark.parametrize(
    "row",
    [
        *({key: PLAIN[key]} for key in PLAIN),
        *(PLAIN | {key: value} for key in PLAIN for value in (None, 5, ["b"])),
        *(PLAIN | {"output": text} for text in ("", " \n\u2003")),
        *(PLAIN | {"is_correct": value} for value in (1, "true")),
        *(PLAIN | {"task_id": value} for value in ("", " ", True, 1.0, 2**64, 10**24)),
        *(PLAIN | {"metadata": value} for value in ("easy", [], {"source": {}})),
        PLAIN | {"input": 5},
        PLAIN | {"unknown": 1},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        ["a"],
        None,
    ],
    ids=str,
)
def test_any_other_row_is_left_to_the_careful_way(row, careful_rows):
    line = encode(row)
    assert read(line, RowReader()) == carefully(line)
    assert len(careful_rows) == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"instruction": 5, "instruction": "a", "output": "b"}',
        b'{"output": 5, "output": "b", "instruction": "a"}',
        b'{"instruction": "a", "output": "b", "instruction": "c"}',
        b' {\t"instruction" : "a" , "output" : "c" } \r\n',
        b'\xef\xbb\xbf{"instruction": "a", "output": "b"}',
        b'{"instruction": "a",}',
        b'{"instruction": "a", "output": "b"} {}',
        b'{"instruction": "a", "output": "b"',
        b'{"instruction": "a", "output": NaN}',
        b'{"instruction": "\\ud800", "output": "b"}',
        b'{"instruction": "\xff", "output": "b"}',
        b'{"instruction": "\\q", "output": "b"}',
        b'{"instruction": "\x01", "output": "b"}',
        b'{"instruction": "a", "output": "\xff"}',
        b'{"instruction": "a", "output": "b", "x": "\xff"}',
        b'{"instruction": "a", "output": "b", "metadata": {"x": "\xff"}}',
        b'{"instruction": "a", "output": "b", "x": 01}',
        b'\x0b{"instruction": "a", "output": "b"}',
        b'"instruction"',
        b"[" * 100_000,
    ],
    ids=lambda line: str(line[:60]),
)
def test_an_odd_or_broken_line_is_read_alike_before_and_after_others(line):
    reader = RowReader()
    assert read(line, reader) == carefully(line)
    assert read(encode(PLAIN), reader) == carefully(encode(PLAIN))
    assert read(line, reader) == carefully(line)


def test_neighbours_that_differ_only_in_the_prompt_have_their_own() -> None:
    reader = RowReader()
    for fields in ({}, {"input": "y"}, {"input": "y"}, {}, {"instruction": ""}, {"input": ""}):
        line = encode(PLAIN | fields)
        assert read(line, reader) == carefully(line)


def test_long_metadata_are_read_alike_and_not_remembered() -> None:
    reader, text = RowReader(), "x" * records._MAX_REMEMBERED
    before = records._decode_facts.cache_info()
    for _ in range(2):
        line = encode(PLAIN | {"metadata": {"source": "s", "other": text}})
        assert read(line, reader) == carefully(line)
    assert records._decode_facts.cache_info() == before


def test_no_more_prompts_are_remembered_than_their_limit(monkeypatch) -> None:
    monkeypatch.setattr(records, "_known_prompts", {})
    monkeypatch.setattr(records, "_MAX_PROMPTS", 3)
    for number in (1, 2, 3, 4, 1, 5, 1):
        line = encode(PLAIN | {"instruction": f"task {number}"})
        assert read(line, RowReader()) == carefully(line)
        assert len(records._known_prompts) <= 3
