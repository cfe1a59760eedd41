"""Reading rows: what is accepted, and the one line that says what is wrong."""

import json
from pathlib import Path

import pytest

from featurize.data.records import Sample
from featurize.errors import DataError, RowFault
from tests.support.indexed import parse_row, read_samples

GOOD = {"instruction": "Add two numbers.", "output": "print(1)"}


def write_lines(path: Path, *lines: str | bytes) -> str:
    encoded = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return str(path)


def fault_of(row: object) -> str:
    """Return the message about a row."""
    with pytest.raises(RowFault) as caught:
        parse_row(row)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_full_row_becomes_a_sample_with_all_its_fields():
    row = {
        "instruction": "Add.",
        "input": "1 2",
        "output": " print(3)\n",
        "is_correct": False,
        "problem_id": "p1",
        "task_id": "t1",
        "metadata": {"difficulty": 7, "source": "codeforces", "language": None, "votes": [1]},
        "author": {"ignored": True},
    }
    assert parse_row(row, "a.jsonl:1") == [
        Sample(
            instruction="Add.",
            input="1 2",
            output=" print(3)\n",
            is_correct=False,
            problem_id="p1",
            task_id="t1",
            difficulty="7",
            source="codeforces",
            language=None,
            location="a.jsonl:1",
        )
    ]


def test_default_ids_depend_on_the_texts_and_not_on_the_label():
    [right] = parse_row(GOOD | {"is_correct": True}, "x:1")
    [wrong] = parse_row(GOOD | {"is_correct": False}, "x:2")
    [other] = parse_row(GOOD | {"output": "print(2)"}, "x:3")
    [elsewhere] = parse_row(GOOD | {"input": "5"}, "x:4")
    assert (right.problem_id, right.task_id) == (wrong.problem_id, wrong.task_id)
    assert right.problem_id == other.problem_id != elsewhere.problem_id
    assert len({right.task_id, other.task_id, elsewhere.task_id}) == 3


@pytest.mark.parametrize("label", [True, False, None])
def test_a_label_is_true_false_or_unknown(label):
    [sample] = parse_row(GOOD | {"is_correct": label}, "x:1")
    assert sample.is_correct is label


def test_an_absent_label_is_unknown():
    assert parse_row(GOOD, "x:1")[0].is_correct is None


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (1, "1 (a number)"),
        (0, "0 (a number)"),
        ("true", "'true' (a string)"),
        (1.0, "1.0 (a number)"),
    ],
)
def test_labels_that_only_look_like_booleans_are_refused(label, shown):
    message = fault_of(GOOD | {"is_correct": label})
    assert message.startswith(f"'is_correct' is {shown}; write true or false, or null")


def test_scalars_of_metadata_become_text():
    metadata = {"difficulty": 2.5, "source": True, "language": float("nan")}
    [sample] = parse_row(GOOD | {"metadata": metadata}, "x:1")
    assert (sample.difficulty, sample.source, sample.language) == ("2.5", "true", None)


def test_whole_numbers_are_ids_and_null_is_no_id():
    [sample] = parse_row(GOOD | {"problem_id": 0, "task_id": None}, "x:1")
    assert sample.problem_id == "0"
    assert sample.task_id == parse_row(GOOD, "x:1")[0].task_id


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"instruction": "a"}, ("'output' is missing", "needs the program text")),
        ({"instruction": "a", "ouput": "b"}, ("'output' is missing", "(rename 'ouput'?)")),
        ({"instruction": "a", "Response": "b"}, ("'output' is missing", "(rename 'Response'?)")),
        (
            {"question": "a", "output": "b"},
            ("'instruction' is missing", "the task to solve (rename 'question'?)"),
        ),
        ({}, ("'instruction' is missing", "the task to solve")),
        (GOOD | {"output": 5}, ("'output' is 5 (a number)", "must be a string")),
        (GOOD | {"output": None}, ("'output' is null", "must be a string")),
        (GOOD | {"instruction": ["a"]}, ("'instruction' is [\"a\"] (a list)", "must be a string")),
        (GOOD | {"input": {}}, ("'input' is {} (an object)", "must be a string")),
        (GOOD | {"output": " \n\t"}, ("'output' is empty (' \\n\\t')", "drop the row")),
        (GOOD | {"problem_id": True}, ("'problem_id' is true (a boolean)", "a whole number")),
        (GOOD | {"task_id": 1.5}, ("'task_id' is 1.5 (a number)", "a whole number")),
        (GOOD | {"problem_id": ""}, ("'problem_id' is empty ('')", "leave the field out")),
        (GOOD | {"metadata": "easy"}, ("'metadata' is 'easy' (a string)", "must be an object")),
        (
            GOOD | {"metadata": {"language": ["c"]}},
            ("'metadata.language' is [\"c\"] (a list)", "a string, a number, a boolean or null"),
        ),
        (
            GOOD | {"output": "ab\ud800c"},
            ("'output' holds", "'\\ud800' at character 2", "remove or replace it"),
        ),
        ([1, 2], ("the row is [1, 2] (a list)", "one JSON object")),
    ],
)
def test_a_bad_row_is_refused_in_one_line_with_value_and_remedy(row, parts):
    message = fault_of(row)
    assert message.startswith(parts[0])
    for part in parts:
        assert part in message


@pytest.mark.parametrize("key", ["instruction", "input", "problem_id", "task_id"])
def test_a_lone_surrogate_is_found_in_every_text(key):
    assert fault_of(GOOD | {key: "\udfff"}).startswith(f"'{key}' holds the lone surrogate")


@pytest.mark.parametrize("value", [list(range(1000)), {"k": "x" * 1000}])
def test_a_long_offending_value_is_shortened(value):
    message = fault_of(GOOD | {"output": value})
    assert len(message) < 140
    assert "... (" in message


def test_a_value_with_line_breaks_stays_on_one_line():
    message = fault_of(GOOD | {"is_correct": "a\u2028b\nc\x85" + "d" * 200})
    assert "a\\u2028b\\nc\\x85d" in message
    assert len(message) < 160


def test_reading_names_file_and_line_of_the_bad_row(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", json.dumps(GOOD), "", '{"instruction": "a"}')
    with pytest.raises(DataError, match="is missing") as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}:3: 'output' is missing")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"instruction": "a"', ("not valid JSON (", "at character 20", '\'{"instruction": "a"\'')),
        ("hello", ("not valid JSON (", "'hello'", "every line must be one JSON object")),
        (b'{"output": "\xff"}', ("not UTF-8 (invalid start byte at byte 12)",)),
        ("17", ("the row is 17 (a number)", "every row must be one JSON object")),
        (
            '{"instruction": "a", "output": "\\ud83d"}',
            ("'output' holds the lone surrogate '\\ud83d'",),
        ),
    ],
)
def test_a_line_that_is_no_json_object_is_refused(tmp_path, line, parts):
    path = write_lines(tmp_path / "train.jsonl", json.dumps(GOOD), line)
    with pytest.raises(DataError) as caught:
        read_samples(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert len(message.splitlines()) == 1
    assert len(message) < len(path) + 260
    for part in parts:
        assert part in message


def test_values_that_json_does_not_allow_are_ignored_in_unread_fields(tmp_path):
    line = '{"instruction": "a", "output": "b", "loss": NaN, "note": "\\ud800", "n": Infinity}'
    [sample] = read_samples(write_lines(tmp_path / "a.jsonl", line))
    assert sample.output == "b"


def test_a_byte_order_mark_and_windows_line_ends_are_ignored(tmp_path):
    line = json.dumps(GOOD).encode()
    path = write_lines(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + line + b"\r", b"\r", line + b"\r")
    assert [s.location for s in read_samples(path)] == [f"{path}:1", f"{path}:3"]
