"""Lists that become rows, JSON within texts, labels by comparison, and joined statements."""

import json
from pathlib import Path
from typing import Any

import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.columns import JoinOptions
from featurize.errors import CriticError, DataError
from tests.support.mapped_columns import Columns
from tests.support.row_files import write_rows

RUNS = [
    {"model": "m1", "completion": "a + b", "pass_rate": 1.0},
    {"model": "m2", "completion": "a - b", "pass_rate": 0.2},
    {"model": "m3", "completion": "a * b", "pass_rate": None},
]
WITH_NAN = [*RUNS[:2], RUNS[2] | {"pass_rate": float("nan")}]
ROW = {"id": "q1", "question": "Add.", "inferences": RUNS}
MAPS = ("instruction=question", "output=inferences[*].completion", "problem_id=id")
RATE = "is_correct=inferences[*].pass_rate >= 0.8"
LISTS = ("instruction=question", "output=codes[*]", "is_correct=passed[*]")
ANSWER = {"instruction": "Add.", "output": "a"}


@pytest.mark.parametrize(
    ("source", "inferences"),
    [
        ("in.jsonl", RUNS),
        ("in.parquet", RUNS),
        ("in.jsonl", json.dumps(RUNS)),
        ("in.jsonl", json.dumps(json.dumps(RUNS))),
        ("in.jsonl", json.dumps(WITH_NAN)),
        ("in.jsonl", [json.dumps(run) for run in RUNS]),
    ],
    ids=["jsonl", "parquet", "a text", "a text twice", "a text with NaN", "items as texts"],
)
def test_every_item_of_a_list_becomes_a_sample(columns: Columns, source: str, inferences: Any):
    row = ROW | {"inferences": inferences, "info": '{"lang": "c"}'}
    prepared = columns.prepare(row, *MAPS, RATE, "metadata.language=info.lang", source=source)
    assert columns.read("instruction", "output", "is_correct", "problem_id") == [
        ("Add.", "a + b", True, "q1"),
        ("Add.", "a - b", False, "q1"),
        ("Add.", "a * b", None, "q1"),
    ]
    assert columns.read("metadata") == [({"language": "c"},)] * 3
    assert next(iter(prepared.details.values())) == "'inferences[*].pass_rate >= 0.8' 1"
    assert len(DatasetIndex.build(str(columns.folder / "out.jsonl"), columns.folder / "c")) == 3


def test_parallel_lists_become_samples_together(columns: Columns):
    columns.prepare(
        {"question": "Add.", "codes": ["a + b", "a - b"], "passed": [True, False]}, *LISTS
    )
    assert columns.read("output", "is_correct") == [("a + b", True), ("a - b", False)]


def test_a_task_id_that_items_share_is_numbered(columns: Columns):
    columns.prepare(ROW, *MAPS, RATE, "task_id=id")
    assert columns.read("task_id") == [("q1-0",), ("q1-1",), ("q1-2",)]


def test_rows_with_an_empty_list_are_counted(columns: Columns):
    rows = [ROW, ROW | {"inferences": []}, ROW | {"inferences": None}]
    prepared = columns.prepare(rows, *MAPS, RATE)
    assert prepared.details["rows with an empty list"] == "2"
    assert prepared.counts["out.jsonl"].samples == 3


@pytest.mark.parametrize(
    ("row", "maps", "parts"),
    [
        (
            {"question": "Add.", "codes": ["a + b", "a - b"], "passed": [True]},
            LISTS,
            ["in.jsonl:1: 'codes' has 2 items and 'passed' 1"],
        ),
        (
            ROW,
            MAPS,
            [
                "in.jsonl:1: 'inferences[*].pass_rate' is 1.0",
                "--map 'is_correct=inferences[*].pass_rate >= 0.8'",
            ],
        ),
        (
            ROW | {"inferences": [RUNS[0], {"pass_rate": 0.5}]},
            (*MAPS, RATE),
            ["in.jsonl:1: 'inferences[*].completion' is missing in item 1"],
        ),
        (
            ROW | {"inferences": "x"},
            (*MAPS, RATE),
            ["'inferences' is 'x' (a string); [*] needs a list"],
        ),
    ],
    ids=["unequal lengths", "label not mapped", "item without program", "no list"],
)
def test_lists_that_cannot_become_rows_are_refused(
    columns: Columns, row: Any, maps: tuple[str, ...], parts: list[str]
):
    with pytest.raises(DataError) as caught:
        columns.prepare(row, *maps)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("messages[1].content", "a"), ("messages.1.content", "a"), ("messages[-1].content", "b")],
)
def test_positions_in_lists_count_from_both_ends(columns: Columns, path: str, expected: str):
    row = {"instruction": "Add.", "messages": [{"content": text} for text in ("s", "a", "b")]}
    columns.prepare(row, f"output={path}")
    assert columns.read("output") == [(expected,)]


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [
        ("rate >= 0.8", 0.8, True),
        ("rate > 0.8", 0.8, False),
        ("rate < 1", 0, True),
        ("rate<=0.5", "0.75", False),
        ("rate == 1", 1.0, True),
        ("rate != 1", 1, False),
        ("rate == passed", "passed", True),
        ("rate == 'passed'", "failed", False),
        ('rate != "passed"', "failed", True),
        ("rate == false", False, True),
        ("rate >= 0.8", None, None),
        ("rate >= 0.8", float("nan"), None),
        ("rate >= 0.8", " ", None),
        ("rate == passed", "", None),
    ],
)
def test_a_label_may_be_a_comparison(columns: Columns, comparison: str, value: Any, expected: Any):
    columns.prepare(ANSWER | {"rate": value}, f"is_correct={comparison}")
    assert columns.read("is_correct") == [(expected,)]


@pytest.mark.parametrize(
    ("comparison", "value", "message"),
    [
        *(("rate >= 0.8", value, "cannot be compared with") for value in ("high", True, [1])),
        ("rate == passed", 1, "cannot be compared with"),
        *(("rate == AC", value, "differs from 'AC' in case or spaces") for value in ("AC ", "ac")),
    ],
)
def test_a_value_that_cannot_be_compared_is_refused(
    columns: Columns, comparison: str, value: Any, message: str
):
    with pytest.raises(DataError, match=rf"in\.jsonl:1: 'rate' is .* {message}"):
        columns.prepare(ANSWER | {"rate": value}, f"is_correct={comparison}")


@pytest.mark.parametrize("text", ['[{"completion": "a", ', "[{'completion': 'a'}]", "[1] and more"])
@pytest.mark.parametrize("path", ["inferences[*].pass_rate", "inferences.0.pass_rate"])
def test_a_text_on_the_path_that_only_begins_like_json_is_refused(
    columns: Columns, text: str, path: str
):
    good, bad = (ANSWER | {"inferences": value} for value in (json.dumps(RUNS), text))
    with pytest.raises(DataError, match=r"in\.jsonl:7: .* which is not JSON \("):
        columns.prepare([*[good] * 6, bad], f"is_correct={path} >= 0.8")


TASKS = [{"task_id": "T/0", "prompt": "Add."}, {"task_id": "T/1", "prompt": "Double."}]
ANSWERS = [
    {"task_id": "T/0", "completion": "a + b", "passed": True},
    {"task_id": "T/0", "completion": "a - b", "passed": False},
]
PASSED = "is_correct=passed"


def joined(folder: Path, tasks: list[Any], name: str = "tasks.jsonl", on: str = "task_id") -> Any:
    return JoinOptions.of(str(write_rows(folder / name, tasks)), on)


@pytest.mark.parametrize(
    ("own", "other"), [(1, "1"), ("1", 1), (1.0, 1), (1, 1.0), (b"1", 1)], ids=str
)
def test_keys_of_different_types_are_joined_by_what_they_say(
    columns: Columns, own: Any, other: Any
):
    join = joined(columns.folder, [{"task_id": other, "prompt": "Add."}], "tasks.parquet")
    row = {"task_id": own, "completion": "a", "passed": True}
    columns.prepare(row, PASSED, source="in.parquet", join=join)
    assert columns.read("instruction", "problem_id") == [("Add.", "1")]


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.parquet"])
def test_statements_are_joined_from_another_file(columns: Columns, name: str):
    prepared = columns.prepare(ANSWERS, PASSED, join=joined(columns.folder, TASKS, name))
    assert columns.read("instruction", "output", "is_correct", "problem_id", "task_id") == [
        ("Add.", "a + b", True, "T/0", None),
        ("Add.", "a - b", False, "T/0", None),
    ]
    assert prepared.details["statements without a row"] == "1 of 2"
    assert len(DatasetIndex.build(str(columns.folder / "out.jsonl"), columns.folder / "c")) == 2


def test_a_join_of_parquet_with_parquet_takes_mapped_columns_of_both(columns: Columns):
    tasks = [{"qid": 7, "text": "Add.", "other": 1}]
    join = joined(columns.folder, tasks, "tasks.parquet", on="q=qid")
    row = {"q": "7", "code": "a + b", "passed": True}
    maps = ("instruction=text", "output=code", PASSED)
    columns.prepare(row, *maps, source="in.parquet", join=join)
    assert columns.read("instruction", "output", "problem_id") == [("Add.", "a + b", "7")]


@pytest.mark.parametrize(
    ("tasks", "answer", "message"),
    [
        (TASKS, {"task_id": "T/9", "completion": "a"}, r"in\.jsonl:1: 'task_id' is 'T/9', which"),
        (TASKS, {"completion": "a"}, r"in\.jsonl:1: 'task_id' is missing, which --on needs"),
        (
            [TASKS[0], TASKS[0] | {"prompt": "Take."}],
            ANSWERS[0],
            r"tasks\.jsonl:2: 'task_id' 'T/0' is taken by .*tasks\.jsonl:1 with other values",
        ),
        ([{"prompt": "Add."}], ANSWERS[0], r"tasks\.jsonl:1: 'task_id' is missing"),
        ([[1]], ANSWERS[0], r"tasks\.jsonl:1: the row is \[1\] \(a list\)"),
        (TASKS, ANSWERS[0] | {"prompt": "Take."}, "'prompt' is 'Take.' here and 'Add.' in"),
    ],
)
def test_a_join_without_a_clear_partner_is_refused(
    columns: Columns, tasks: list[Any], answer: dict[str, Any], message: str
):
    with pytest.raises(DataError, match=message):
        columns.prepare(answer, PASSED, join=joined(columns.folder, tasks))


def test_join_and_on_belong_together():
    for file, on in ((None, "task_id"), ("tasks.jsonl", None)):
        with pytest.raises(CriticError, match="--join and --on belong together"):
            JoinOptions.of(file, on)
    with pytest.raises(CriticError, match="--on 'a='"):
        JoinOptions.of("tasks.jsonl", "a=")


def test_a_changed_file_of_statements_is_noticed(columns: Columns):
    join = joined(columns.folder, TASKS)
    source = [write_rows(columns.folder / "in.jsonl", ANSWERS)]
    columns.prepare_files(source, PASSED, join=join)
    assert columns.prepare_files(source, PASSED, join=join).was_up_to_date
    joined(columns.folder, [*TASKS, {"task_id": "T/2", "prompt": "x"}])
    with pytest.raises(CriticError, match="--overwrite"):
        columns.prepare_files(source, PASSED, join=join)
