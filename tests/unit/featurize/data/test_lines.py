"""Parsing lines in parts gives what parsing them whole gives, bad lines included."""

import json

import msgspec
import orjson
import pytest

from featurize.data import lines as lines_module
from featurize.data.lines import PLAIN_ERRORS, LineParser, PlainRow


def parse(*lines: str | bytes) -> list[PlainRow] | None:
    """Parse lines as one block; None where one of them is no plain row."""
    block = [line if isinstance(line, bytes) else line.encode() for line in lines]
    before = list(block)
    try:
        rows = LineParser().parse_all(block)
    except PLAIN_ERRORS:
        return None
    finally:
        assert block == before, "the block is not as it was"
    assert len(rows) == len(lines)
    return rows


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def whole(*lines: str) -> list[PlainRow] | None:
    """Parse each line by itself, with another library."""
    try:
        return [msgspec.convert(orjson.loads(line), PlainRow) for line in lines]
    except (orjson.JSONDecodeError, msgspec.ValidationError):
        return None


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
    expected = whole(*lines, lines[0])
    assert expected
    assert parse(*lines, lines[0]) == expected


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
    assert [row.instruction for row in parse(*lines) or []] == [text] * 3
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
        assert parse(*lines) is None


@pytest.mark.parametrize(
    "broken",
    [
        ['"x": [1', '"z": 1}]}'],
        ['"x": 1}, {"y": 2}', '"x": [0', '"z": 1}]}'],
        ['"x": 1}, 5', '"x": [0', '"z": 1}]}'],
        ['"x": 1}, {"instruction": 7}', '"x": [{}', '"z": 1}]}'],
        ['"x": 1}, {"instruction": "a", "output": "c"}', '"x": [{}', '"z": 1}]}'],
    ],
)
def test_broken_lines_that_would_mend_each_other_are_refused(broken):
    plain = line(instruction="a", output="b")
    assert parse(plain, plain)
    lines = (f'{{"instruction": "a", "output": "b", {rest}\n' for rest in broken)
    assert parse(plain, *lines, plain) is None


def test_the_last_line_needs_no_end():
    lines = [line(instruction="a", output=str(n)) for n in range(3)]
    lines[-1] = lines[-1].rstrip()
    assert parse(*lines) == whole(*lines)
    assert parse(lines[-1]) == whole(lines[-1])


@pytest.mark.parametrize("first", [{}, {"task_id": "t"}], ids=["first", "second"])
@pytest.mark.parametrize("odd", [[], [line(output="b", instruction="last")]], ids=["even", "odd"])
def test_an_instruction_is_parsed_once_for_all_its_lines(monkeypatch, first, odd):
    lines = [line(**first, instruction=f"statement {n % 3}", output=str(n)) for n in range(12)]
    lines[3:3] = odd
    expected = whole(*lines)
    parsed: list[bytes] = []

    class Spy:
        def __init__(self, decoder):
            self.decode = lambda text: parsed.append(text) or decoder.decode(text)

    for name in ("_one_row", "_rows", "_middle"):
        monkeypatch.setattr(lines_module, name, Spy(getattr(lines_module, name)))
    assert parse(*lines) == expected
    assert sum(b"statement" in text for text in parsed) == 3


def test_what_is_skipped_is_checked_all_the_same():
    plain = line(instruction="a", output="b")
    for bad in (
        b'"x": "\xff"',
        b'"\xff": 1',
        b'"x": "\\q"',
        b'"x": 01',
        b'"x": [1,]',
        b'"x": "\x01"',
    ):
        broken = b'{"instruction": "a", "output": "b", ' + bad + b"}\n"
        for lines in ((broken,), (plain, broken), (broken, plain)):
            assert parse(*lines) is None


def test_a_number_that_another_parser_would_round_is_left_to_it():
    for key in ("problem_id", "task_id"):
        assert parse(line(instruction="a", output="b", **{key: 2**63 - 1}))
        assert parse(line(instruction="a", output="b", **{key: 10**24})) is None
    assert parse(line(instruction="a", output="b", metadata={"difficulty": 10**24})) is None
