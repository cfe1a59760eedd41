"""Datasets with other column names become samples; bad rows are reported by line."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap, LabelValues
from featurize.data.prepare.prepared import Prepared
from featurize.errors import CriticError, DataError
from tests.support.row_files import read_rows, write_rows

ROW = {"question": "Add.", "code": "a + b", "verdict": "AC", "info": {"lang": "c", "id": 7}}
MAPS = ("instruction=question", "output=code", "is_correct=verdict")


def labels(correct: str = "", incorrect: str = "") -> LabelValues:
    return LabelValues(correct=frozenset(correct.split()), incorrect=frozenset(incorrect.split()))


def write(path: Path, *rows: Any) -> Path:
    return write_rows(path, rows)


def prepare(
    source: Path | list[Path], out: Path, *maps: str, values: LabelValues | None = None, **more: Any
) -> Prepared:
    overwrite = more.pop("overwrite", False)
    sources = [str(path) for path in (source if isinstance(source, list) else [source])]
    columns = ColumnMap.parse(maps, values)
    job = ColumnsJob(sources=sources, out=out, columns=columns, **more)
    return prepare_columns(job, overwrite=overwrite)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_mapped_columns_become_the_fields_of_a_sample(tmp_path: Path, kind: str):
    source = write(tmp_path / f"in.{kind}", ROW, ROW | {"code": "a - b", "verdict": "WA"})
    prepared = prepare(
        source,
        tmp_path / "out.jsonl",
        *MAPS,
        "problem_id=info.id",
        "metadata.language=info.lang",
        values=labels("AC passed"),
    )
    shared = {"instruction": "Add.", "input": ""}
    rest = {"problem_id": "7", "metadata": {"language": "c"}}
    assert read_rows(tmp_path / "out.jsonl") == [
        {**shared, "output": "a + b", "is_correct": True, **rest},
        {**shared, "output": "a - b", "is_correct": False, **rest},
    ]
    assert prepared.details == {"taken as correct": "'AC' 1", "taken as incorrect": "'WA' 1"}
    counts = prepared.counts["out.jsonl"]
    assert (counts.correct, counts.incorrect, counts.unlabelled) == (1, 1, 0)


def test_parquet_holds_what_jsonl_holds(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, ROW | {"verdict": None, "info": {"lang": None}})
    maps = (*MAPS, "metadata.language=info.lang", "metadata.rating=info.id")
    for kind in ("jsonl", "parquet"):
        prepare(source, tmp_path / f"out.{kind}", *maps, values=labels("AC"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["metadata"].to_pylist() == [
        {"source": None, "language": "c", "difficulty": None, "author": None, "rating": "7"},
        {"source": None, "language": None, "difficulty": None, "author": None, "rating": None},
    ]
    plain, packed = (
        DatasetIndex.build(str(tmp_path / f"out.{kind}"), tmp_path / "cache")
        for kind in ("jsonl", "parquet")
    )
    assert plain.content_fingerprint == packed.content_fingerprint


def test_columns_that_have_the_right_name_need_no_map(tmp_path: Path):
    row = {
        "instruction": "Add.", "output": "wrong column", "code": "a + b", "is_correct": True,
        "task_id": "t", "metadata": {"language": "c", "secret": 1},
    }  # fmt: skip
    prepare(write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl", "output=code")
    assert read_rows(tmp_path / "out.jsonl") == [
        {
            "instruction": "Add.", "input": "", "output": "a + b", "is_correct": True,
            "task_id": "t", "metadata": {"language": "c"},
        }
    ]  # fmt: skip


def test_preference_rows_become_two_samples(tmp_path: Path):
    row = {"prompt": "Add.", "winner": {"text": "a + b"}, "loser": [{"text": "a - b"}], "id": 3}
    maps = ("chosen=winner.text", "rejected=loser.0.text", "task_id=id")
    prepare(write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl", *maps)
    rows = read_rows(tmp_path / "out.jsonl")
    assert [(r["output"], r["is_correct"], r["task_id"]) for r in rows] == [
        ("a + b", True, "3-chosen"),
        ("a - b", False, "3-rejected"),
    ]


def test_a_column_mapped_elsewhere_is_not_taken_under_its_own_name(tmp_path: Path):
    row = {"prompt": "Add.", "output": "a + b", "rejected": "a - b"}
    prepare(write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl", "chosen=output")
    assert [row["output"] for row in read_rows(tmp_path / "out.jsonl")] == ["a + b", "a - b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("AC", True), ("WA", False), (None, None), (1, True), (0, False), (True, True)],
)
def test_labels_are_compared_as_text(value: Any, expected: bool | None):
    assert labels("AC 1 true").to_label(value) is expected


def test_a_value_that_is_neither_correct_nor_incorrect_is_refused(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, ROW | {"verdict": "pending"})
    with pytest.raises(DataError, match=r"in\.jsonl:2: the label is 'pending', which"):
        prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels("AC", "WA"))


def test_labels_without_values_have_to_be_true_or_false(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW)
    with pytest.raises(DataError, match=r"in\.jsonl:1: the label is 'AC' .*--correct-values"):
        prepare(source, tmp_path / "out.jsonl", *MAPS)
    source = write(tmp_path / "in.jsonl", ROW | {"verdict": False})
    prepare(source, tmp_path / "out.jsonl", *MAPS)
    assert read_rows(tmp_path / "out.jsonl")[0]["is_correct"] is False


def test_correct_values_that_never_occur_are_refused(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, ROW | {"verdict": "WA"})
    with pytest.raises(CriticError, match=r"--correct-values OK,ok: .* 'AC' 1, 'WA' 1"):
        prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels("ok OK"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_path_that_no_row_has_is_refused(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW)
    maps = (*MAPS, "metadata.language=info.language")
    with pytest.raises(CriticError, match=r"--map metadata\.language=info\.language: no row has"):
        prepare(source, tmp_path / "out.jsonl", *maps, values=labels("AC"))


def test_a_path_that_some_rows_have_is_null_in_the_others(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, {"question": "Sub.", "code": "a - b"})
    maps = (*MAPS, "metadata.language=info.lang")
    prepare(source, tmp_path / "out.jsonl", *maps, values=labels("AC"))
    assert [row["metadata"] for row in read_rows(tmp_path / "out.jsonl")] == [{"language": "c"}, {}]


def test_a_column_that_a_parquet_file_lacks_is_reported_with_those_it_has(tmp_path: Path):
    source = write(tmp_path / "in.parquet", ROW)
    with pytest.raises(CriticError, match=r"in\.parquet: --map output=solution: .* question"):
        prepare(source, tmp_path / "out.jsonl", "output=solution")


def test_all_bad_rows_are_reported_by_file_and_line_and_nothing_is_written(tmp_path: Path):
    good = write(tmp_path / "a.jsonl", ROW)
    bad = write(tmp_path / "b.jsonl", ROW, {"code": "x"}, ROW | {"code": " "}, ROW | {"code": 1})
    with bad.open("a") as file:
        file.write("{broken\n[1]\n")
    with pytest.raises(DataError) as error:
        prepare([good, bad], tmp_path / "out", *MAPS, values=labels("AC"))
    assert error.value.total == 5
    places = [
        problem.removeprefix(f"{tmp_path}/").split(" ")[0] for problem in error.value.problems
    ]
    assert places == [f"b.jsonl:{line}:" for line in (2, 3, 4, 5, 6)]
    assert "b.jsonl:2: 'question' is missing" in str(error.value)
    assert "there are code" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_every_file_becomes_one_in_a_folder(tmp_path: Path):
    sources = [write(tmp_path / f"{name}.jsonl", ROW | {"code": name}) for name in "ab"]
    options = {"values": labels("AC")}
    prepared = prepare(sources, tmp_path / "out", *MAPS, output_format="parquet", **options)
    assert list(prepared.files) == ["a.parquet", "b.parquet"]
    assert pq.read_table(tmp_path / "out/b.parquet")["output"].to_pylist() == ["b"]
    prepare(sources, tmp_path / "both.jsonl", *MAPS, **options)
    assert [row["output"] for row in read_rows(tmp_path / "both.jsonl")] == ["a", "b"]


def test_two_files_of_one_name_are_not_written_into_one(tmp_path: Path):
    sources = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        sources.append(write(tmp_path / folder / "a.jsonl", ROW))
    with pytest.raises(CriticError, match=r"x/a\.jsonl and .*y/a\.jsonl: both would become"):
        prepare(sources, tmp_path / "out", *MAPS, values=labels("AC"))


def test_columns_of_parquet_that_are_not_taken_are_listed(tmp_path: Path):
    row = {**ROW, "tests": "many", "prompt": "not used", "verdict": None}
    source = write(tmp_path / "in.parquet", row)
    prepared = prepare(source, tmp_path / "out.jsonl", "instruction=question", "output=code")
    assert prepared.details == {"columns not taken": "info, tests, verdict"}


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["output"], "--map 'output' names no column"),
        (["outptu=code"], "did you mean 'output'?"),
        (["language=lang"], "did you mean 'metadata.language'?"),
        (["xyz=code"], "the fields are instruction, input,"),
        (["output=a", "output=b"], "'output' is given twice, as 'a' and 'b'"),
    ],
)
def test_invalid_maps_are_refused(maps: list[str], message: str):
    with pytest.raises(CriticError, match=re.escape(message)):
        ColumnMap.parse(maps)


def test_contradicting_values_are_refused():
    with pytest.raises(CriticError, match="'AC' cannot be both correct and incorrect"):
        labels("AC", "AC WA")
    with pytest.raises(CriticError, match="--incorrect-values needs --correct-values"):
        labels("", "WA")


def test_an_empty_source_and_an_unknown_ending_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"in\.jsonl: has no rows"):
        prepare(write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", "output=code")
    with pytest.raises(CriticError, match=r"out\.csv.* unknown ending"):
        prepare(write(tmp_path / "in.jsonl", ROW), tmp_path / "out.csv", *MAPS)


def test_programs_are_rewritten_in_one_hand_and_what_is_no_python_is_counted(tmp_path: Path):
    programs = {
        "def f( a,b ):  # add\n    return ( a+b )\n": "def f(a, b):\n    return a + b",
        "x = 1": "x = 1",
        "int main() { return 0; }": "int main() { return 0; }",
        "# nothing but a comment\n": "# nothing but a comment\n",
        "s = '\\d'": "s = '\\\\d'",  # an invalid escape warns, but not on our terminal
    }
    rows = [{"instruction": "Add.", "output": program, "is_correct": True} for program in programs]
    source, out = write(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    prepared = prepare(source, out, normalise=True)
    assert [row["output"] for row in read_rows(out)] == list(programs.values())
    assert prepared.details["outputs rewritten"] == "2"
    assert prepared.details["outputs left, not Python"] == "2"
    with pytest.raises(CriticError, match="normalise 'python', not None"):
        prepare(source, out)


def test_the_author_of_a_row_is_kept_from_whichever_field_names_it(tmp_path: Path):
    rows = [
        {"instruction": "Add.", "output": "1", "metadata": {"generator": ["b", "a"], "x": 1}},
        {"instruction": "Add.", "output": "2", "by": "c"},
    ]
    out = tmp_path / "out.jsonl"
    prepare(write(tmp_path / "in.jsonl", *rows), out, "metadata.author=by")
    assert [row["metadata"].get("author") for row in read_rows(out)] == ["a; b", "c"]


def test_conversations_are_written_as_messages_where_prompts_may_be_conversations(tmp_path: Path):
    turns = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "a - b"},
        {"role": "user", "content": "No, add."},
    ]
    source = write(tmp_path / "in.jsonl", {"prompt": turns, "chosen": "a + b", "rejected": "b - a"})
    with pytest.raises(DataError, match=r"in.jsonl:1: .*prompt\.format to chat"):
        prepare(source, tmp_path / "texts.jsonl")
    prepare(source, tmp_path / "out.jsonl", keeps_turns=True)
    assert [row["instruction"] for row in read_rows(tmp_path / "out.jsonl")] == [turns, turns]


@pytest.mark.parametrize(
    ("correct", "values", "expected"),
    [
        ("1", [1.0, 1, 0.0, "1", None], [True, True, False, True, None]),
        ("1.0", [1, 1.0, 0], [True, True, False]),
        ("True", [True, "True", False, "False"], [True, True, False, False]),
        ("AC", ["AC", "WA", "", " ", float("nan")], [True, False, None, None, None]),
    ],
)
def test_labels_are_compared_by_what_they_say(
    tmp_path: Path, correct: str, values: list[Any], expected: list[bool | None]
):
    source = write(tmp_path / "in.jsonl", *(ROW | {"verdict": value} for value in values))
    prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels(correct))
    assert [row["is_correct"] for row in read_rows(tmp_path / "out.jsonl")] == expected


def test_a_label_in_another_case_is_refused_until_it_is_listed(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, ROW | {"verdict": "ac"})
    with pytest.raises(DataError, match=r"in\.jsonl:2: the label is 'ac', .* from 'AC' in case"):
        prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels("AC"))
    prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels("AC", "ac"))
    assert [row["is_correct"] for row in read_rows(tmp_path / "out.jsonl")] == [True, False]


def test_a_label_that_is_a_list_is_refused(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", ROW, ROW | {"verdict": ["AC"]})
    with pytest.raises(DataError, match=r'the label is \["AC"\] \(a list\); it must be'):
        prepare(source, tmp_path / "out.jsonl", *MAPS, values=labels("AC"))
