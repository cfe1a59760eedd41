"""Runs of `prepare codecontests`: finished splits are kept, mistakes are reported by file."""

import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from featurize.data.prepare.settings import CodeContestsSettings
from featurize.errors import CriticError
from tests.support.contests import MIXED, SCHEMA, prepare, problem, solutions, write_problems


def test_progress_counts_the_problems_of_all_splits(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem(name) for name in "abc"])
    write_problems(tmp_path / "in", "test", [problem("d")])
    seen: list[tuple[int, int]] = []
    prepare(tmp_path / "in", tmp_path / "out", progress=lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_only_the_missing_split_is_made_again(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    write_problems(tmp_path / "in", "valid", [problem("v")])
    made = prepare(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out/train.jsonl").stat().st_mtime_ns
    content = (tmp_path / "out/valid.jsonl").read_bytes()
    (tmp_path / "out/valid.jsonl").write_bytes(content[:-10])
    again = prepare(tmp_path / "in", tmp_path / "out")
    assert (again.counts, again.files) == (made.counts, made.files)
    assert (tmp_path / "out/valid.jsonl").read_bytes() == content
    assert (tmp_path / "out/train.jsonl").stat().st_mtime_ns == before


def test_a_split_that_is_finished_is_kept_when_the_next_one_fails(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    path = write_problems(tmp_path / "in", "valid", [problem("v", difficulty=99)])
    with pytest.raises(CriticError, match="row 1: 'difficulty' is 99"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.json", "train.jsonl"]
    assert path.exists()


def test_patterns_select_the_files_of_a_split(tmp_path: Path):
    for number, split in enumerate(("part", "held-out")):
        path = write_problems(tmp_path / "in", split, [problem(split)])
        path.rename(tmp_path / f"in/{split}-{number}.parquet")
    with pytest.raises(CriticError, match=r"held-out-1\.parquet: .* of no split; .*--split"):
        prepare(tmp_path / "in", tmp_path / "out")
    patterns = ("validation=held-*", "train=part-*", "train=more-*")
    prepared = prepare(tmp_path / "in", tmp_path / "out", split_files=patterns)
    assert list(prepared.files) == ["train.jsonl", "valid.jsonl"]
    with pytest.raises(CriticError, match="of train and valid"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train=*", "valid=held*"))
    with pytest.raises(CriticError, match="--split 'train' names no files"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train",))


def test_published_files_that_are_missing_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_problems(tmp_path / "in", "train", [MIXED], number=3, total=39)
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path / "in", tmp_path / "out")
    assert "only 1 of 39" in caplog.text


def test_a_source_without_files_is_named(tmp_path: Path):
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CriticError, match=f"{source}.* matches no file"):
            prepare(source, tmp_path / "out")


def rewrite_column(path: Path, name: str, column: pa.Array | None) -> None:
    table = pq.read_table(path)
    table = table.drop_columns([name])
    if column is not None:
        table = table.append_column(name, column)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("solutions", None, "column 'solutions' is missing (there are name,"),
        ("source", pa.array(["CODEFORCES"]), "column 'source' is string"),
        ("incorrect_solutions", pa.array([["x"]]), "column 'incorrect_solutions' is list<"),
        (
            "solutions",
            pa.array([{"language": ["PYTHON3"], "solution": ["x"]}]),
            "column 'solutions' is struct<language: list<",
        ),
    ],
)
def test_a_wrong_schema_names_the_column_and_what_was_found(
    tmp_path: Path, name: str, column: pa.Array | None, message: str
):
    path = write_problems(tmp_path / "in", "train", [problem("x")])
    rewrite_column(path, name, column)
    with pytest.raises(CriticError, match=re.escape(message)) as error:
        prepare(tmp_path / "in", tmp_path / "out")
    assert str(error.value).startswith(f"{path}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ""}, "'name' is ''"),
        ({"source": 7}, "'source' is 7"),
        ({"difficulty": -1}, "'difficulty' is -1"),
        ({"solutions": solutions((5, "x"))}, "'solutions.language' is 5"),
        (
            {"solutions": {"language": [3, 3], "solution": ["x"]}},
            "'solutions' has 2 languages and 1 solutions",
        ),
    ],
)
def test_a_bad_row_is_reported_by_file_and_row(
    tmp_path: Path, columns: dict[str, Any], message: str
):
    rows = [problem(name) for name in "abc"]
    path = write_problems(tmp_path / "in", "train", [*rows, problem("d") | columns])
    with pytest.raises(CriticError, match=re.escape(f"{path}:row 4: {message}")):
        prepare(tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path):
    path = write_problems(tmp_path / "in", "train", [problem("x")])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CriticError, match=r"parquet: cannot be read as Parquet"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_split_that_would_be_empty_is_refused_with_the_reason(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem("x"), problem("y")])
    with pytest.raises(CriticError, match=r"train would have no sample \(2 problems without"):
        prepare(tmp_path / "in", tmp_path / "out", languages=("java",))
    pq.write_table(SCHEMA.empty_table(), tmp_path / "in/test-00000-of-00001.parquet")
    with pytest.raises(CriticError, match=r"test would have no sample \(there are no rows"):
        prepare(tmp_path / "in/test*", tmp_path / "out")


def test_unknown_languages_and_none_at_all_are_refused():
    with pytest.raises(ValidationError, match="'python2', 'cpp', 'python3'"):
        CodeContestsSettings(languages=("python",))
    with pytest.raises(ValidationError, match=r"languages \[\]"):
        CodeContestsSettings(languages=())
