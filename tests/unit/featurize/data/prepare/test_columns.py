"""Datasets with other column names become samples; bad rows are reported by line."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.mapping import ColumnMap
from featurize.errors import CriticError, DataError
from tests.support.mapped_columns import Columns, labels
from tests.support.row_files import write_rows

ROW = {"question": "Add.", "code": "a + b", "verdict": "AC", "info": {"lang": "c", "id": 7}}
MAPS = ("instruction=question", "output=code", "is_correct=verdict")
LANGUAGE = "metadata.language=info.lang"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_mapped_columns_become_the_fields_of_a_sample(columns: Columns, kind: str):
    rows = [ROW, ROW | {"code": "a - b", "verdict": "WA"}]
    maps = (*MAPS, "problem_id=info.id", LANGUAGE)
    prepared = columns.prepare(rows, *maps, source=f"in.{kind}", correct="AC passed")
    shared = {"instruction": "Add.", "input": "", "problem_id": "7", "metadata": {"language": "c"}}
    assert columns.read() == [
        {**shared, "output": "a + b", "is_correct": True},
        {**shared, "output": "a - b", "is_correct": False},
    ]
    assert prepared.details == {"taken as correct": "'AC' 1", "taken as incorrect": "'WA' 1"}
    counts = prepared.counts["out.jsonl"]
    assert (counts.correct, counts.incorrect, counts.unlabelled) == (1, 1, 0)


def test_parquet_holds_what_jsonl_holds(columns: Columns):
    rows = [ROW, ROW | {"verdict": None, "info": {"lang": None}}]
    for kind in ("jsonl", "parquet"):
        maps = (*MAPS, LANGUAGE, "metadata.rating=info.id")
        columns.prepare(rows, *maps, out=f"out.{kind}", correct="AC")
    table = pq.read_table(columns.folder / "out.parquet")
    assert table["metadata"].to_pylist() == [
        {"source": None, "language": "c", "difficulty": None, "author": None, "rating": "7"},
        {"source": None, "language": None, "difficulty": None, "author": None, "rating": None},
    ]
    plain, packed = (
        DatasetIndex.build(str(columns.folder / f"out.{kind}"), columns.folder / "cache")
        for kind in ("jsonl", "parquet")
    )
    assert plain.content_fingerprint == packed.content_fingerprint


def test_columns_that_have_the_right_name_need_no_map(columns: Columns):
    row = {
        "instruction": "Add.", "output": "wrong column", "code": "a + b", "is_correct": True,
        "task_id": "t", "metadata": {"language": "c", "secret": 1},
    }  # fmt: skip
    columns.prepare(row, "output=code")
    assert columns.read() == [
        {
            "instruction": "Add.", "input": "", "output": "a + b", "is_correct": True,
            "task_id": "t", "metadata": {"language": "c"},
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "maps", "ids"),
    [
        (
            {"prompt": "Add.", "winner": {"text": "a + b"}, "loser": [{"text": "a - b"}], "id": 3},
            ("chosen=winner.text", "rejected=loser.0.text", "task_id=id"),
            ["3-chosen", "3-rejected"],
        ),
        # A column mapped elsewhere is not taken under its own name.
        ({"prompt": "Add.", "output": "a + b", "rejected": "a - b"}, ("chosen=output",), None),
        # An answer that is mapped wins over a column named output.
        (
            {"prompt": "Add.", "good": "a + b", "bad": "a - b", "output": "log"},
            ("chosen=good", "rejected=bad"),
            None,
        ),
    ],
)
def test_preference_rows_become_two_samples(columns: Columns, row: Any, maps: Any, ids: Any):
    columns.prepare(row, *maps)
    assert columns.read("output", "is_correct") == [("a + b", True), ("a - b", False)]
    assert columns.read("task_id") == [(one,) for one in ids or [None, None]]


@pytest.mark.parametrize(
    ("correct", "values", "expected"),
    [
        ("AC 1 true", ["AC", "WA", None, 1, 0, True], [True, False, None, True, False, True]),
        ("1", [1.0, 1, 0.0, "1", None], [True, True, False, True, None]),
        ("1.0", [1, 1.0, 0], [True, True, False]),
        ("True", [True, "True", False, "False"], [True, True, False, False]),
        ("AC", ["AC", "WA", "", " ", float("nan")], [True, False, None, None, None]),
        ("AC ac", ["AC", "ac"], [True, True]),
        ("", [False, True, None], [False, True, None]),
    ],
)
def test_labels_are_compared_by_what_they_say(
    columns: Columns, correct: str, values: list[Any], expected: list[bool | None]
):
    columns.prepare([ROW | {"verdict": value} for value in values], *MAPS, correct=correct)
    assert columns.read("is_correct") == [(label,) for label in expected]


@pytest.mark.parametrize(
    ("rows", "maps", "values", "message"),
    [
        ([ROW, ROW | {"verdict": "x"}], MAPS, ("AC", "WA"), r"in\.jsonl:2: the label is 'x', whi"),
        ([ROW], MAPS, (), r"in\.jsonl:1: the label is 'AC' .*--correct-values"),
        ([ROW, ROW | {"verdict": "ac"}], MAPS, ("AC",), r"jsonl:2: the label is 'ac', .*'AC'"),
        ([ROW | {"verdict": ["AC"]}], MAPS, ("AC",), r'the label is \["AC"\] \(a list\); it must'),
        ([ROW, ROW | {"verdict": "WA"}], MAPS, ("ok OK",), r"values OK,ok: .* 'AC' 1, 'WA' 1"),
        ([ROW], (*MAPS, "metadata.a=info.b"), ("AC",), r"--map metadata\.a=info\.b: no row has"),
        ([], ("output=code",), (), r"in\.jsonl: has no rows"),
    ],
    ids=["neither", "no values", "case", "a list", "never", "no row has it", "no rows"],
)
def test_rows_and_maps_that_do_not_fit_are_refused(
    columns: Columns, rows: list[Any], maps: Any, values: Any, message: str
):
    with pytest.raises(CriticError, match=message):
        columns.prepare(rows, *maps, **dict(zip(("correct", "incorrect"), values, strict=False)))
    assert [path.name for path in columns.folder.iterdir()] == ["in.jsonl"]


def test_a_path_that_some_rows_have_is_null_in_the_others(columns: Columns):
    columns.prepare([ROW, {"question": "Sub.", "code": "a - b"}], *MAPS, LANGUAGE, correct="AC")
    assert columns.read("metadata") == [({"language": "c"},), ({},)]


def test_columns_of_parquet_that_are_missing_or_not_taken_are_listed(columns: Columns):
    row = {**ROW, "tests": "many", "prompt": "not used", "verdict": None}
    prepared = columns.prepare(row, *MAPS[:2], source="in.parquet")
    assert prepared.details == {"columns not taken": "info, tests, verdict"}
    with pytest.raises(CriticError, match=r"in\.parquet: --map output=solution: .* question"):
        columns.prepare(row, "output=solution", source="in.parquet", out="other.jsonl")


def test_all_bad_rows_are_reported_by_file_and_line_and_nothing_is_written(tmp_path: Path):
    good = write_rows(tmp_path / "a.jsonl", [ROW])
    rows = [ROW, {"code": "x"}, ROW | {"code": " "}, ROW | {"code": 1}]
    bad = write_rows(tmp_path / "b.jsonl", rows)
    with bad.open("a") as file:
        file.write("{broken\n[1]\n")
    with pytest.raises(DataError) as error:
        Columns(tmp_path).prepare_files([good, bad], *MAPS, out="out", values=labels("AC"))
    assert error.value.total == 5
    places = [
        problem.removeprefix(f"{tmp_path}/").split(" ")[0] for problem in error.value.problems
    ]
    assert places == [f"b.jsonl:{line}:" for line in (2, 3, 4, 5, 6)]
    assert "b.jsonl:2: 'question' is missing" in str(error.value)
    assert "there are code" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_every_file_becomes_one_in_a_folder_or_all_become_one(columns: Columns):
    folder, values = columns.folder, labels("AC")
    sources = [write_rows(folder / f"{name}.jsonl", [ROW | {"code": name}]) for name in "ab"]
    prepared = columns.prepare_files(
        sources, *MAPS, out="out", output_format="parquet", values=values
    )
    assert list(prepared.files) == ["a.parquet", "b.parquet"]
    assert pq.read_table(folder / "out/b.parquet")["output"].to_pylist() == ["b"]
    columns.prepare_files(sources, *MAPS, values=values)
    assert columns.read("output") == [("a",), ("b",)]
    (folder / "x").mkdir()
    same = write_rows(folder / "x/a.jsonl", [ROW])
    with pytest.raises(CriticError, match=r"a\.jsonl and .*x/a\.jsonl: both would become"):
        columns.prepare_files([sources[0], same], *MAPS, out="both", values=values)
    with pytest.raises(CriticError, match=r"out\.csv.* unknown ending"):
        columns.prepare_files(sources, *MAPS, out="out.csv", values=values)


@pytest.mark.parametrize(
    ("maps", "correct", "message"),
    [
        (["output"], "", "--map 'output' names no column"),
        (["outptu=code"], "", "'output'"),
        (["language=lang"], "", "'metadata.language'"),
        (["xyz=code"], "", "the fields are instruction, input,"),
        (["output=a", "output=b"], "", "'output' is given twice, as 'a' and 'b'"),
        (["output=rate >= 0.8"], "", "'output' is no label"),
        (["is_correct=rate >= high"], "", ">= high compares with no number"),
        (["is_correct=rate >= 0.8"], "AC", "drop --correct-values"),
        (["output=a[*].b[*].c"], "", "'a[*].b[*].c' has [*] twice"),
    ],
)
def test_a_map_that_cannot_work_is_refused_before_reading(
    maps: list[str], correct: str, message: str
):
    with pytest.raises(CriticError, match=re.escape(message)):
        ColumnMap.parse(maps, labels(correct))


def test_contradicting_values_are_refused():
    with pytest.raises(CriticError, match="'AC' cannot be both correct and incorrect"):
        labels("AC", "AC WA")
    with pytest.raises(CriticError, match="--incorrect-values needs --correct-values"):
        labels("", "WA")


def test_programs_are_rewritten_in_one_hand_and_what_is_no_python_is_counted(columns: Columns):
    programs = {
        "def f( a,b ):  # add\n    return ( a+b )\n": "def f(a, b):\n    return a + b",
        "x = 1": "x = 1",
        "int main() { return 0; }": "int main() { return 0; }",
        "# nothing but a comment\n": "# nothing but a comment\n",
        "s = '\\d'": "s = '\\\\d'",  # an invalid escape warns, but not on our terminal
    }
    rows = [{"instruction": "Add.", "output": program, "is_correct": True} for program in programs]
    prepared = columns.prepare(rows, normalise=True)
    assert columns.read("output") == [(program,) for program in programs.values()]
    assert prepared.details["outputs rewritten"] == "2"
    assert prepared.details["outputs left, not Python"] == "2"
    with pytest.raises(CriticError, match="normalise 'python', not None"):
        columns.prepare_files([columns.folder / "in.jsonl"])


def test_the_author_of_a_row_is_kept_from_whichever_field_names_it(columns: Columns):
    rows = [
        {"instruction": "Add.", "output": "1", "metadata": {"generator": ["b", "a"], "x": 1}},
        {"instruction": "Add.", "output": "2", "by": "c"},
    ]
    columns.prepare(rows, "metadata.author=by")
    assert [row["metadata"].get("author") for row in columns.read()] == ["a; b", "c"]


def test_conversations_are_written_as_messages_where_prompts_may_be_conversations(
    columns: Columns,
):
    turns = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "a - b"},
        {"role": "user", "content": "No, add."},
    ]
    row = {"prompt": turns, "chosen": "a + b", "rejected": "b - a"}
    with pytest.raises(DataError, match=r"in.jsonl:1: .*prompt\.format to chat"):
        columns.prepare(row)
    columns.prepare(row, keeps_turns=True)
    assert columns.read("instruction") == [(turns,), (turns,)]
