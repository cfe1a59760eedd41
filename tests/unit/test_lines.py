"""Parsing lines in parts gives what parsing them whole gives, bad lines included."""

import json

import orjson
import pytest

from featurize.data.lines import LineParser


def parse(*lines: str | bytes) -> list[object]:
    """Parse lines as one block."""
    block = bytearray(b"".join(b if isinstance(b, bytes) else b.encode() for b in lines))
    before = bytes(block)
    try:
        rows, lengths = LineParser().parse_all(block, len(block))
    finally:
        assert bytes(block) == before, "the block is not as it was"
    assert sum(lengths) == len(block)
    assert len(rows) == len(lengths)
    return rows


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def whole(*lines: str) -> list[object]:
    return [orjson.loads(line) for line in lines]


SAME = 'Say "hi",\\ and {"instruction": "no", }\n'


@pytest.mark.parametrize(
    "keys",
    [
        ("instruction", "output"),
        ("task_id", "instruction", "output"),
        ("input", "task_id", "instruction", "output", "metadata"),
        ("output", "instruction"),
        ("metadata", "instruction", "output"),
    ],
    ids=" ".join,
)
def test_lines_of_one_instruction_differ_in_the_rest(keys):
    values = {"instruction": SAME, "input": "", "metadata": {"instruction": "x", "n": [1, {}]}}
    lines = [line(**{key: values.get(key, f"{key} {n}") for key in keys}) for n in range(4)]
    lines.append(line(**{key: values.get(key, "b") for key in keys} | {"instruction": "other"}))
    assert parse(*lines, lines[0]) == whole(*lines, lines[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\\",
        '\\"',
        '"',
        '",',
        '\\",',
        'a\\\\",',
        '"instruction": "b",',
        "größer \u2028 \U0001f600",
    ],
)
def test_any_instruction_comes_back(text):
    lines = [line(instruction=text, output=str(n)) for n in range(3)]
    assert parse(*lines) == whole(*lines)


@pytest.mark.parametrize(
    "odd",
    [
        '{"instruction": 5, "output": "a", "n": 1}\n',
        '{"instruction": ["a", "b"], "output": "c"}\n',
        '{"instruction": "a", "instruction": "b", "output": "c"}\n',
        '{"instruction": "a", "output": "c", "instruction": "b"}\n',
        '{"output": "0", "instruction": "a", "output": "c"}\n',
        '{"metadata": {"instruction": "a", "n": 1}, "output": "c"}\n',
        '{"list": ["instruction", "b", "c"]}\n',
        '{"k\\"instruction": "a", "output": "c"}\n',
        ' {\t"instruction" : "a" , "output" : "c" } \r\n',
        '{"instruction": "a"}\n',
        '"instruction"\n',
        "[1]\n",
    ],
)
def test_an_odd_line_is_what_it_is_wherever_it_stands(odd):
    plain = line(instruction="a", output="b")
    for lines in ((odd,), (odd, odd), (plain, odd), (plain, plain, odd, plain), (odd, plain)):
        assert parse(*lines) == whole(*lines)


@pytest.mark.parametrize(
    "bad",
    [
        '{"instruction": "a",}\n',
        '{"instruction": "a", }\n',
        '{,"instruction": "a", "output": "b"}\n',
        '{"x": 1,, "instruction": "a", "output": "b"}\n',
        '{"instruction": "a", "output": "b"\n',
        '{"instruction": "a", "output": "b"} {}\n',
        '{"instruction": "a", "output": NaN}\n',
        '{"instruction": "a", "output": "\\ud800"}\n',
        b'{"instruction": "a", "output": "\xff"}\n',
        '{"x":"x,"instruction": "a",y"}\n',
        '\x0b{"instruction": "a", "output": "b"}\n',
        '{"x": [{"y": 1,"instruction": "a", "output": "b"}\n',
        '["instruction": "a", "output": "b"}\n',
        '\ufeff{"instruction": "a", "output": "b"}\n',
        "\n",
        "instruction\n",
    ],
)
def test_what_is_not_strict_json_is_refused_wherever_it_stands(bad):
    plain = line(instruction="a", output="b")
    for lines in ((bad,), (plain, bad), (plain, plain, bad), (bad, plain)):
        with pytest.raises(orjson.JSONDecodeError):
            parse(*lines)


@pytest.mark.parametrize(
    "broken",
    [
        ['"x": [1', '"z": 1}]}'],
        ['"x": 1}, {"y": 2}', '"x": [0', '"z": 1}]}'],
        ['"x": 1}, 5', '"x": [0', '"z": 1}]}'],
        ['"x": 1}, {"instruction": 7}', '"x": [{}', '"z": 1}]}'],
    ],
)
def test_broken_lines_that_would_mend_each_other_are_refused(broken):
    plain = line(instruction="a", output="b")
    with pytest.raises(orjson.JSONDecodeError):
        parse(plain, *(f'{{"instruction": "a", {rest}\n' for rest in broken), plain)


def test_the_last_line_needs_no_end():
    lines = [line(instruction="a", output=str(n)) for n in range(3)]
    lines[-1] = lines[-1].rstrip()
    assert parse(*lines) == whole(*lines)
    assert parse(lines[-1]) == whole(lines[-1])


def test_no_byte_behind_the_block_is_read():
    lines = [line(instruction="a", output=str(n)) for n in range(3)]
    block = bytearray("".join(lines).encode() + b'{"instruction": "a", "rest of the buffer')
    rows, lengths = LineParser().parse_all(block, sum(map(len, lines)))
    assert rows == whole(*lines)
    assert lengths == [len(line) for line in lines]


def test_an_instruction_is_parsed_once_for_all_its_lines(monkeypatch):
    parsed = []
    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", lambda text: parsed.append(bytes(text)) or loads(text))
    lines = [line(instruction=f"statement {n % 3}", output=str(n)) for n in range(12)]
    assert parse(*lines) == [loads(line) for line in lines]
    assert sum(b"statement" in text for text in parsed) == 3
