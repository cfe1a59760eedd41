"""Lists that become rows, JSON within texts, labels by comparison, and joined statements."""

import json
from pathlib import Path
from typing import Any

import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.columns import ColumnsJob, JoinOptions, prepare_columns
from featurize.data.prepare.mapping import ColumnMap, LabelValues
from featurize.data.prepare.prepared import Prepared
from featurize.errors import CriticError, DataError
from tests.support.row_files import read_rows, write_rows

RUNS = [
    {"model": "m1", "completion": "a + b", "pass_rate": 1.0},
    {"model": "m2", "completion": "a - b", "pass_rate": 0.2},
    {"model": "m3", "completion": "a * b", "pass_rate": None},
]
ROW = {"id": "q1", "question": "Add.", "inferences": RUNS}
MAPS = ("instruction=question", "output=inferences[*].completion", "problem_id=id")
RATE = "is_correct=inferences[*].pass_rate >= 0.8"


def write(path: Path, *rows: Any) -> Path:
    return write_rows(path, rows)


def prepare(source: Path, *maps: str, values: str = "", **more: Any) -> Prepared:
    labels = LabelValues(correct=frozenset(values.split()))
    out = source.with_name("out.jsonl")
    job = ColumnsJob(sources=[str(source)], out=out, columns=ColumnMap.parse(maps, labels), **more)
    return prepare_columns(job)


def samples(folder: Path, *names: str) -> list[tuple[Any, ...]]:
    rows = read_rows(folder / "out.jsonl")
    return [tuple(row.get(name) for name in names) for row in rows]


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_every_item_of_a_list_becomes_a_sample(tmp_path: Path, name: str):
    prepared = prepare(write(tmp_path / name, ROW), *MAPS, RATE)
    assert samples(tmp_path, "instruction", "output", "is_correct", "problem_id") == [
        ("Add.", "a + b", True, "q1"),
        ("Add.", "a - b", False, "q1"),
        ("Add.", "a * b", None, "q1"),
    ]
    assert prepared.details["taken as correct"] == "'inferences[*].pass_rate >= 0.8' 1"
    assert prepared.details["taken as unlabelled"] == "'None' 1"
    assert len(DatasetIndex.build(str(tmp_path / "out.jsonl"), tmp_path / "cache")) == 3


def test_a_list_that_is_written_as_a_text_is_parsed(tmp_path: Path):
    row = ROW | {"inferences": json.dumps(RUNS), "info": '{"lang": "c"}'}
    prepare(write(tmp_path / "in.jsonl", row), *MAPS, RATE, "metadata.language=info.lang")
    assert samples(tmp_path, "output", "is_correct", "metadata") == [
        ("a + b", True, {"language": "c"}),
        ("a - b", False, {"language": "c"}),
        ("a * b", None, {"language": "c"}),
    ]


def test_items_that_are_written_as_texts_are_parsed(tmp_path: Path):
    row = ROW | {"inferences": [json.dumps(run) for run in RUNS]}
    prepare(write(tmp_path / "in.jsonl", row), *MAPS, RATE)
    assert samples(tmp_path, "output") == [("a + b",), ("a - b",), ("a * b",)]


def test_parallel_lists_become_samples_together(tmp_path: Path):
    row = {"question": "Add.", "codes": ["a + b", "a - b"], "passed": [True, False]}
    maps = ("instruction=question", "output=codes[*]", "is_correct=passed[*]")
    prepare(write(tmp_path / "in.jsonl", row), *maps)
    assert samples(tmp_path, "output", "is_correct") == [("a + b", True), ("a - b", False)]


def test_parallel_lists_of_unequal_length_are_refused(tmp_path: Path):
    row = {"question": "Add.", "codes": ["a + b", "a - b"], "passed": [True]}
    maps = ("instruction=question", "output=codes[*]", "is_correct=passed[*]")
    with pytest.raises(DataError, match=r"in\.jsonl:1: 'codes' has 2 items and 'passed' 1"):
        prepare(write(tmp_path / "in.jsonl", row), *maps)


def test_a_task_id_that_items_share_is_numbered(tmp_path: Path):
    prepare(write(tmp_path / "in.jsonl", ROW), *MAPS, RATE, "task_id=id")
    assert samples(tmp_path, "task_id") == [("q1-0",), ("q1-1",), ("q1-2",)]


def test_rows_with_an_empty_list_are_counted(tmp_path: Path):
    rows = [ROW, ROW | {"inferences": []}, ROW | {"inferences": None}]
    prepared = prepare(write(tmp_path / "in.jsonl", *rows), *MAPS, RATE)
    assert prepared.details["rows with an empty list"] == "2"
    assert prepared.counts["out.jsonl"].samples == 3


def test_a_label_inside_items_that_is_not_mapped_is_refused(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        prepare(write(tmp_path / "in.jsonl", ROW), *MAPS)
    assert "in.jsonl:1: 'inferences[*].pass_rate' is 1.0" in str(caught.value)
    assert "--map 'is_correct=inferences[*].pass_rate >= 0.8'" in str(caught.value)


def test_an_item_without_its_program_is_refused_by_its_position(tmp_path: Path):
    row = ROW | {"inferences": [RUNS[0], {"pass_rate": 0.5}]}
    message = r"in\.jsonl:1: 'inferences\[\*\]\.completion' is missing in item 1"
    with pytest.raises(DataError, match=message):
        prepare(write(tmp_path / "in.jsonl", row), *MAPS, RATE)


def test_an_item_stands_for_each_only_in_a_list(tmp_path: Path):
    with pytest.raises(DataError, match=r"'inferences' is 'x' \(a string\); \[\*\] needs a list"):
        prepare(write(tmp_path / "in.jsonl", ROW | {"inferences": "x"}), *MAPS, RATE)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("messages[1].content", "a"), ("messages.1.content", "a"), ("messages[-1].content", "b")],
)
def test_positions_in_lists_count_from_both_ends(tmp_path: Path, path: str, expected: str):
    row = {"instruction": "Add.", "messages": [{"content": text} for text in ("s", "a", "b")]}
    prepare(write(tmp_path / "in.jsonl", row), f"output={path}")
    assert samples(tmp_path, "output") == [(expected,)]


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
def test_a_label_may_be_a_comparison(tmp_path: Path, comparison: str, value: Any, expected: Any):
    row = {"instruction": "Add.", "output": "a", "rate": value}
    prepare(write(tmp_path / "in.jsonl", row), f"is_correct={comparison}")
    assert samples(tmp_path, "is_correct") == [(expected,)]


@pytest.mark.parametrize(
    ("comparison", "value"),
    [("rate >= 0.8", "high"), ("rate >= 0.8", True), ("rate >= 0.8", [1]), ("rate == passed", 1)],
)
def test_a_value_that_cannot_be_compared_is_refused(tmp_path: Path, comparison: str, value: Any):
    row = {"instruction": "Add.", "output": "a", "rate": value}
    with pytest.raises(DataError, match=r"in\.jsonl:1: 'rate' is .* cannot be compared with"):
        prepare(write(tmp_path / "in.jsonl", row), f"is_correct={comparison}")


@pytest.mark.parametrize("value", ["AC ", "ac", "Ac"])
def test_a_text_that_nearly_equals_the_compared_one_is_refused(tmp_path: Path, value: str):
    row = {"instruction": "Add.", "output": "a", "verdict": value}
    with pytest.raises(DataError, match=r"'verdict' is .* differs from 'AC' in case or spaces"):
        prepare(write(tmp_path / "in.jsonl", row), "is_correct=verdict == AC")


WITH_NAN = [*RUNS[:2], RUNS[2] | {"pass_rate": float("nan")}]


@pytest.mark.parametrize(
    "text",
    [json.dumps(RUNS), json.dumps(json.dumps(RUNS)), json.dumps(WITH_NAN)],
    ids=["once", "twice", "with NaN"],
)
def test_lists_written_as_json_become_rows(tmp_path: Path, text: str):
    prepare(write(tmp_path / "in.jsonl", ROW | {"inferences": text}), *MAPS, RATE)
    assert samples(tmp_path, "output", "is_correct") == [
        ("a + b", True),
        ("a - b", False),
        ("a * b", None),
    ]


@pytest.mark.parametrize("text", ['[{"completion": "a", ', "[{'completion': 'a'}]", "[1] and more"])
@pytest.mark.parametrize("path", ["inferences[*].pass_rate", "inferences.0.pass_rate"])
def test_a_text_on_the_path_that_only_begins_like_json_is_refused(
    tmp_path: Path, text: str, path: str
):
    good, bad = (
        {"instruction": "Add.", "output": "a", "inferences": value}
        for value in (json.dumps(RUNS), text)
    )
    source = write(tmp_path / "in.jsonl", *[good] * 6, bad)
    with pytest.raises(DataError, match=r"in\.jsonl:7: .* which is not JSON \("):
        prepare(source, f"is_correct={path} >= 0.8")


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("output=rate >= 0.8", "", "'output' is no label"),
        ("is_correct=rate >= high", "", ">= high compares with no number"),
        ("is_correct=rate >= 0.8", "AC", "drop --correct-values"),
        ("output=a[*].b[*].c", "", "'a[*].b[*].c' has [*] twice"),
    ],
)
def test_a_map_that_cannot_work_is_refused_before_reading(option: str, values: str, message: str):
    with pytest.raises(CriticError) as caught:
        ColumnMap.parse([option], LabelValues(correct=frozenset(values.split())))
    assert message in str(caught.value)


def test_an_answer_that_is_mapped_wins_over_a_column_named_output(tmp_path: Path):
    row = {"prompt": "Add.", "good": "a + b", "bad": "a - b", "output": "log"}
    prepare(write(tmp_path / "in.jsonl", row), "chosen=good", "rejected=bad")
    assert samples(tmp_path, "output", "is_correct") == [("a + b", True), ("a - b", False)]


TASKS = [{"task_id": "T/0", "prompt": "Add."}, {"task_id": "T/1", "prompt": "Double."}]
ANSWERS = [
    {"task_id": "T/0", "completion": "a + b", "passed": True},
    {"task_id": "T/0", "completion": "a - b", "passed": False},
]
PASSED = "is_correct=passed"


@pytest.mark.parametrize(
    ("own", "other"), [(1, "1"), ("1", 1), (1.0, 1), (1, 1.0), (b"1", 1)], ids=str
)
def test_keys_of_different_types_are_joined_by_what_they_say(tmp_path: Path, own: Any, other: Any):
    tasks = write(tmp_path / "tasks.parquet", {"task_id": other, "prompt": "Add."})
    join = JoinOptions(file=str(tasks), on="task_id")
    rows = write(tmp_path / "in.parquet", {"task_id": own, "completion": "a", "passed": True})
    prepare(rows, PASSED, join=join)
    assert samples(tmp_path, "instruction", "problem_id") == [("Add.", "1")]


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.parquet"])
def test_statements_are_joined_from_another_file(tmp_path: Path, name: str):
    join = JoinOptions(file=str(write(tmp_path / name, *TASKS)), on="task_id")
    prepared = prepare(write(tmp_path / "in.jsonl", *ANSWERS), PASSED, join=join)
    assert samples(tmp_path, "instruction", "output", "is_correct", "problem_id", "task_id") == [
        ("Add.", "a + b", True, "T/0", None),
        ("Add.", "a - b", False, "T/0", None),
    ]
    assert prepared.details["statements without a row"] == "1 of 2"
    assert len(DatasetIndex.build(str(tmp_path / "out.jsonl"), tmp_path / "cache")) == 2


def test_a_join_of_parquet_with_parquet_takes_mapped_columns_of_both(tmp_path: Path):
    tasks = [{"qid": 7, "text": "Add.", "other": 1}]
    join = JoinOptions(file=str(write(tmp_path / "t.parquet", *tasks)), on="q=qid")
    rows = [{"q": "7", "code": "a + b", "passed": True}]
    maps = ("instruction=text", "output=code", PASSED)
    prepare(write(tmp_path / "in.parquet", *rows), *maps, join=join)
    assert samples(tmp_path, "instruction", "output", "problem_id") == [("Add.", "a + b", "7")]


@pytest.mark.parametrize(
    ("tasks", "answer", "message"),
    [
        (
            TASKS,
            {"task_id": "T/9", "completion": "a"},
            r"in\.jsonl:1: 'task_id' is 'T/9', which",
        ),
        (TASKS, {"completion": "a"}, r"in\.jsonl:1: 'task_id' is missing, which --on needs"),
        (
            [TASKS[0], TASKS[0] | {"prompt": "Take."}],
            ANSWERS[0],
            r"tasks\.jsonl:2: 'task_id' 'T/0' is taken by .*tasks\.jsonl:1 with other values",
        ),
        ([{"prompt": "Add."}], ANSWERS[0], r"tasks\.jsonl:1: 'task_id' is missing"),
        (TASKS, ANSWERS[0] | {"prompt": "Take."}, "'prompt' is 'Take.' here and 'Add.' in"),
    ],
)
def test_a_join_without_a_clear_partner_is_refused(
    tmp_path: Path, tasks: list[Any], answer: dict[str, Any], message: str
):
    join = JoinOptions(file=str(write(tmp_path / "tasks.jsonl", *tasks)), on="task_id")
    with pytest.raises(DataError, match=message):
        prepare(write(tmp_path / "in.jsonl", answer), PASSED, join=join)


def test_join_and_on_belong_together():
    for file, on in ((None, "task_id"), ("tasks.jsonl", None)):
        with pytest.raises(CriticError, match="--join and --on belong together"):
            JoinOptions.of(file, on)
    with pytest.raises(CriticError, match="--on 'a=' names no column"):
        JoinOptions.of("tasks.jsonl", "a=")


def test_a_changed_file_of_statements_is_noticed(tmp_path: Path):
    tasks = write(tmp_path / "tasks.jsonl", *TASKS)
    source = write(tmp_path / "in.jsonl", *ANSWERS)
    join = JoinOptions(file=str(tasks), on="task_id")
    prepare(source, PASSED, join=join)
    assert prepare(source, PASSED, join=join).was_up_to_date
    write(tasks, *TASKS, {"task_id": "T/2", "prompt": "x"})
    with pytest.raises(CriticError, match="--overwrite"):
        prepare(source, PASSED, join=join)
