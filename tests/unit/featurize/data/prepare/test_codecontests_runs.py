"""Preparing CodeContests: what is finished is kept, and what cannot be read is told."""

import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests
from featurize.data.prepare.settings import CodeContestsSettings, PrepareSettings
from featurize.errors import CriticError
from tests.support.contest_files import (
    SCHEMA,
    problem,
    solutions,
    write_problems,
)
from tests.support.contest_jobs import MIXED, prepare


def test_progress_counts_the_problems_of_all_splits(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem(name) for name in "abc"])
    write_problems(tmp_path / "in", "test", [problem("d")])
    seen: list[tuple[int, int]] = []
    job = CodeContestsJob(
        source=str(tmp_path / "in"), out_dir=tmp_path / "out", settings=PrepareSettings()
    )
    prepare_codecontests(job, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_finished_dataset_is_not_made_again(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    write_problems(tmp_path / "in", "valid", [problem("v")])
    made = prepare(tmp_path / "in", tmp_path / "out")
    assert not made.was_up_to_date
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    found = prepare(tmp_path / "in", tmp_path / "out")
    assert found.was_up_to_date
    assert found.counts == made.counts
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


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


def test_other_settings_or_files_need_overwrite(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    write_problems(tmp_path / "in", "valid", [MIXED])
    prepare(tmp_path / "in", tmp_path / "out", format="parquet")
    with pytest.raises(CriticError, match=r"made with max_solutions None, not 1; choose another"):
        prepare(tmp_path / "in", tmp_path / "out", format="parquet", max_solutions=1)
    with pytest.raises(CriticError, match="made with other source files; choose another"):
        prepare(tmp_path / "in/train*", tmp_path / "out", format="parquet")
    prepare(tmp_path / "in/train*", tmp_path / "out", overwrite=True)
    # What the earlier run left is gone: a glob of the folder finds one dataset.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.json", "train.jsonl"]


def test_files_of_somebody_else_are_not_written_over(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.jsonl").write_text("mine")
    with pytest.raises(CriticError, match=r"train\.jsonl: is there already, and no summary\.json"):
        prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/summary.json").write_text('{"mine": 1}')
    with pytest.raises(CriticError, match="not a summary of prepare codecontests; choose another"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/train.jsonl").read_text() == "mine"


def test_files_of_other_names_are_told_apart_by_patterns(tmp_path: Path):
    for number, split in enumerate(("part", "held-out")):
        path = write_problems(tmp_path / "in", split, [problem(split)])
        path.rename(tmp_path / f"in/{split}-{number}.parquet")
    with pytest.raises(CriticError, match=r"held-out-1\.parquet: by its name .* of no split"):
        prepare(tmp_path / "in", tmp_path / "out")
    patterns = ("validation=held-*", "train=part-*", "train=more-*")
    prepared = prepare(tmp_path / "in", tmp_path / "out", split_files=patterns)
    assert list(prepared.files) == ["train.jsonl", "valid.jsonl"]
    with pytest.raises(CriticError, match=r"of train and valid; say which files are"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train=*", "valid=held*"))
    with pytest.raises(CriticError, match="--split 'train' names no files"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train",))


def test_a_published_file_that_was_not_downloaded_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_problems(tmp_path / "in", "train", [MIXED], number=3, total=39)
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path / "in", tmp_path / "out")
    assert caplog.messages == ["train: only 1 of 39 published files are here"]


def test_missing_files_are_told_with_their_path(tmp_path: Path):
    with pytest.raises(CriticError, match=r"nowhere.* matches no file; check the path"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CriticError, match=r"holds no \.parquet file; download those of"):
        prepare(tmp_path, tmp_path / "out")


def rewrite_column(path: Path, name: str, column: pa.Array | None) -> None:
    table = pq.read_table(path)
    table = table.drop_columns([name])
    if column is not None:
        table = table.append_column(name, column)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("name", "column", "told"),
    [
        ("solutions", None, "column 'solutions' is missing (there are name, description,"),
        ("source", pa.array(["CODEFORCES"]), "column 'source' is string, and deepmind/"),
        ("incorrect_solutions", pa.array([["x"]]), "column 'incorrect_solutions' is list<"),
        (
            "solutions",
            pa.array([{"language": ["PYTHON3"], "solution": ["x"]}]),
            "column 'solutions' is struct<language: list<",
        ),
    ],
)
def test_a_wrong_schema_names_the_column_and_what_was_found(
    tmp_path: Path, name: str, column: pa.Array | None, told: str
):
    path = write_problems(tmp_path / "in", "train", [problem("x")])
    rewrite_column(path, name, column)
    with pytest.raises(CriticError, match=re.escape(told)) as error:
        prepare(tmp_path / "in", tmp_path / "out")
    assert str(error.value).startswith(f"{path}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"source": 7}, "'source' is 7; deepmind/code_contests has 0 to 6"),
        ({"difficulty": -1}, "'difficulty' is -1; deepmind/code_contests has 0 to 28"),
        ({"solutions": solutions((5, "x"))}, "'solutions.language' is 5"),
        (
            {"solutions": {"language": [3, 3], "solution": ["x"]}},
            "'solutions' has 2 languages and 1 solutions",
        ),
    ],
)
def test_a_row_out_of_order_is_told_by_file_and_row(
    tmp_path: Path, columns: dict[str, Any], told: str
):
    rows = [problem(name) for name in "abc"]
    path = write_problems(tmp_path / "in", "train", [*rows, problem("d", **columns)])
    with pytest.raises(CriticError, match=re.escape(f"{path}:row 4: {told}")):
        prepare(tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_problem_without_a_name_is_told(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem("")])
    with pytest.raises(CriticError, match=r":row 1: 'name' is ''; a problem is told by its name"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_damaged_file_is_told(tmp_path: Path):
    path = write_problems(tmp_path / "in", "train", [problem("x")])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CriticError, match=r"parquet: cannot be read as Parquet \(.*\); fetch it"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_split_that_would_be_empty_is_refused_with_the_reason(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem("x"), problem("y")])
    told = r"train would hold no sample \(2 problems without solutions in the languages asked for\)"
    with pytest.raises(CriticError, match=told):
        prepare(tmp_path / "in", tmp_path / "out", languages=("java",))
    pq.write_table(SCHEMA.empty_table(), tmp_path / "in/test-00000-of-00001.parquet")
    with pytest.raises(CriticError, match=r"test would hold no sample \(there are no rows\)"):
        prepare(tmp_path / "in/test*", tmp_path / "out")


def test_languages_are_named_as_they_are_written():
    with pytest.raises(ValidationError, match="'python2', 'cpp', 'python3', 'java' or 'unknown'"):
        CodeContestsSettings(languages=("python",))
    with pytest.raises(ValidationError, match=r"languages \[\] takes none"):
        CodeContestsSettings(languages=())
