"""CodeContests as it is published becomes samples, and all that is left out is accounted for."""

import itertools
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from featurize.data.index import DatasetIndex
from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests
from featurize.data.prepare.codecontests.problems import DIFFICULTIES, LANGUAGES, SOURCES
from featurize.data.prepare.codecontests.tokens import TokenLimit
from featurize.data.prepare.prepared import Prepared, PrepareError
from featurize.data.prepare.settings import CodeContestsSettings, PrepareSettings
from tests.contest_files import (
    CPP,
    JAVA,
    PYTHON2,
    PYTHON3,
    SCHEMA,
    problem,
    solutions,
    write_problems,
)
from tests.tiny_models import make_tokenizer

MIXED = problem(
    "1_A. Mixed",
    solutions=solutions(
        (PYTHON3, "p1"), (CPP, "c1"), (PYTHON3, "p2"), (JAVA, "j1"), (PYTHON2, "o")
    ),
    incorrect_solutions=solutions((CPP, "c2"), (PYTHON3, "p3"), (PYTHON2, "n")),
)


def prepare(
    source: Path | str, out: Path, *, overwrite: bool = False, format: str = "jsonl",
    split_files: tuple[str, ...] = (), limit: TokenLimit | None = None, **settings: Any,
) -> Prepared:  # fmt: skip
    job = CodeContestsJob(
        source=str(source),
        out_dir=out,
        settings=PrepareSettings(
            output_format=format, codecontests=CodeContestsSettings(**settings)
        ),
        split_files=split_files,
        token_limit=limit,
    )
    return prepare_codecontests(job, overwrite=overwrite)


def prepare_rows(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """The samples of one file of problems."""
    write_problems(tmp_path / "in", "train", rows)
    prepared = prepare(tmp_path / "in", tmp_path / "out", **settings)
    counts = prepared.counts["train"]
    written = read(tmp_path / "out/train.jsonl")
    num_published = sum(
        len(row[key]["solution"]) for row in rows for key in ("solutions", "incorrect_solutions")
    )
    # Every problem and every solution is either written or counted.
    assert counts.samples == len(written)
    assert counts.samples + sum(counts.samples_left_out.values()) == num_published
    assert counts.problems == len({row["problem_id"] for row in written})
    assert counts.problems + sum(counts.problems_left_out.values()) == len(rows)
    return written


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_out(tmp_path: Path, things: str = "samples") -> dict[str, int]:
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    return summary["counts"]["train"][f"{things}_left_out"]


def outputs(rows: list[dict[str, Any]]) -> set[str]:
    return {row["output"] for row in rows}


def test_a_problem_becomes_a_row_for_every_solution(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("76_B. Mice", difficulty=8, cf_rating=1700))
    by_label = {row["is_correct"]: row for row in rows}
    assert by_label[True] == {
        "instruction": "Solve 76_B. Mice.",
        "input": "",
        "output": "right 76_B. Mice",
        "is_correct": True,
        "problem_id": "codeforces/76_B. Mice",
        "task_id": "codeforces/76_B. Mice#python3#c0",
        "metadata": {
            "source": "codeforces",
            "language": "python3",
            "difficulty": "B",
            "cf_rating": 1700,
        },
    }
    assert by_label[False]["output"] == "wrong 76_B. Mice"
    assert by_label[False]["task_id"] == "codeforces/76_B. Mice#python3#i0"


def test_label_numbers_are_those_of_the_hub():
    """The protocol buffers have ATCODER = 6 and L = 19; the hub counts without their gaps."""
    assert [SOURCES[number] for number in (0, 2, 5, 6)] == [
        "unknown", "codeforces", "atcoder", "aizu",
    ]  # fmt: skip
    assert [DIFFICULTIES[number] for number in (0, 1, 6, 7, 18, 28)] == [
        None, "easy", "external", "A", "L", "V",
    ]  # fmt: skip
    assert len(DIFFICULTIES) == 29
    assert LANGUAGES == ("unknown", "python2", "cpp", "python3", "java")


def test_what_is_unknown_is_null_and_a_rating_of_0_is_none(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x", source=0, difficulty=0, cf_rating=0))
    assert {row["problem_id"] for row in rows} == {"unknown/x"}
    for row in rows:
        assert row["metadata"] == {
            "source": None, "language": "python3", "difficulty": None, "cf_rating": None,
        }  # fmt: skip


def test_the_rating_can_be_the_difficulty(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x"), problem("y", cf_rating=0), difficulty="cf_rating")
    assert {(r["problem_id"], r["metadata"]["difficulty"]) for r in rows} == {
        ("codeforces/x", "800"),
        ("codeforces/y", None),
    }


def test_problems_of_one_name_and_two_sources_are_two_problems(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x", source=5), problem("x", source=6))
    assert {row["problem_id"] for row in rows} == {"atcoder/x", "aizu/x"}


def test_every_split_becomes_a_file_that_the_index_reads(tmp_path: Path):
    for split, names in (("train", "abcd"), ("valid", "e"), ("test", "fg")):
        for number, name in enumerate(names[:2]):
            write_problems(
                tmp_path / "in/data", split, [problem(name), problem(name * 2)], number=number,
                total=2,
            )  # fmt: skip
    prepared = prepare(tmp_path / "in", tmp_path / "out")
    assert {split: counts.problems for split, counts in prepared.counts.items()} == {
        "train": 4, "valid": 2, "test": 4,
    }  # fmt: skip
    index = DatasetIndex.build(str(tmp_path / "out/train.jsonl"), tmp_path / "cache")
    assert (len(index), index.num_problems) == (8, 4)


def test_parquet_holds_what_jsonl_holds(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED, problem("é", difficulty=0, cf_rating=0)])
    prepare(tmp_path / "in", tmp_path / "out")
    prepared = prepare(tmp_path / "in", tmp_path / "out2", format="parquet")
    table = pq.read_table(tmp_path / "out2/train.parquet")
    assert table.to_pylist() == read(tmp_path / "out/train.jsonl")
    assert prepared.files == {"train.parquet": (tmp_path / "out2/train.parquet").stat().st_size}
    plain, packed = (
        DatasetIndex.build(str(path), tmp_path / "cache")
        for path in (tmp_path / "out/train.jsonl", tmp_path / "out2/train.parquet")
    )
    assert plain.content_fingerprint == packed.content_fingerprint


def test_only_languages_asked_for_are_taken(tmp_path: Path):
    rows = prepare_rows(tmp_path, MIXED, languages=("python3", "cpp"))
    assert outputs(rows) == {"p1", "p2", "p3", "c1", "c2"}
    assert {row["metadata"]["language"] for row in rows} == {"python3", "cpp"}
    assert left_out(tmp_path) == {"in other languages": 3}


def test_a_language_with_one_label_only_is_left_out(tmp_path: Path):
    rows = prepare_rows(tmp_path, MIXED)
    assert outputs(rows) == {"p1", "p2", "p3", "c1", "c2", "o", "n"}  # no Java, never incorrect
    assert left_out(tmp_path) == {"of a problem and language with one label only": 1}


def test_one_label_is_enough_where_asked_for(tmp_path: Path):
    only = problem("only", incorrect_solutions=solutions())
    assert len(prepare_rows(tmp_path, MIXED, only, require_both_labels=False)) == 9


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"incorrect_solutions": solutions()}, "without both labels in a language"),
        ({"incorrect_solutions": solutions((CPP, "c"))}, "without both labels in a language"),
        ({"description": " \n"}, "without a statement"),
        ({"description": None}, "without a statement"),
        ({"solutions": solutions(), "incorrect_solutions": solutions()}, "without solutions"),
        (
            {"solutions": solutions((JAVA, "j")), "incorrect_solutions": solutions((JAVA, "k"))},
            "without solutions in the languages asked for",
        ),
        (
            {"solutions": solutions((PYTHON3, "a" * 51)), "incorrect_solutions": solutions()},
            "without solutions of at most 50 characters",
        ),
        (
            {
                "solutions": solutions((PYTHON3, "p")),
                "incorrect_solutions": solutions((PYTHON3, "p")),
            },
            "with contradicting labels only",
        ),
    ],
)
def test_problems_that_give_nothing_are_counted_by_reason(
    tmp_path: Path, columns: dict[str, Any], reason: str
):
    rows = prepare_rows(
        tmp_path,
        problem("good"),
        problem("bad", **columns),
        languages=("python3", "cpp"),
        max_chars=50,
    )
    assert {row["problem_id"] for row in rows} == {"codeforces/good"}
    assert left_out(tmp_path, "problems") == {reason: 1}


def test_programs_that_come_again_and_contradicting_ones_are_left_out(tmp_path: Path):
    row = problem(
        "x",
        solutions=solutions((PYTHON3, "a"), (PYTHON3, "a"), (PYTHON3, "b"), (CPP, "a")),
        incorrect_solutions=solutions((PYTHON3, "b"), (PYTHON3, "c"), (CPP, "d"), (CPP, " ")),
    )
    rows = prepare_rows(tmp_path, row)
    labels = {(row["output"], row["metadata"]["language"], row["is_correct"]) for row in rows}
    assert labels == {
        ("a", "python3", True), ("c", "python3", False), ("a", "cpp", True), ("d", "cpp", False),
    }  # fmt: skip
    assert left_out(tmp_path) == {
        "empty": 1, "both correct and incorrect": 2, "that come again": 1,
    }  # fmt: skip


def test_duplicates_can_be_kept(tmp_path: Path):
    row = problem("x", solutions=solutions((PYTHON3, "a"), (PYTHON3, "a"), (PYTHON3, "wrong x")))
    rows = prepare_rows(tmp_path, row, keep_duplicates=True)
    assert len(rows) == len({row["task_id"] for row in rows}) == 4


def test_a_problem_that_comes_again_is_left_out(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x"), problem("y"), problem("x", description="Other."))
    assert {row["instruction"] for row in rows} == {"Solve x.", "Solve y."}
    assert left_out(tmp_path, "problems") == {"that come again (same source and name)": 1}
    assert left_out(tmp_path) == {"of problems that come again": 2}


def many(name: str, number: int) -> dict[str, Any]:
    return problem(
        name,
        solutions=solutions(*((PYTHON3, f"right {i}") for i in range(number))),
        incorrect_solutions=solutions(
            *((PYTHON3, f"wrong {i}") for i in range(number)), (CPP, "wrong")
        ),
    )


def test_at_most_so_many_of_a_label_are_drawn_by_the_seed(tmp_path: Path):
    rows = prepare_rows(tmp_path, many("x", 20), problem("y"), max_solutions=3)
    of_x = [row for row in rows if row["problem_id"] == "codeforces/x"]
    assert sorted(row["is_correct"] for row in of_x) == [False] * 3 + [True] * 3
    assert len(rows) == 8
    assert left_out(tmp_path) == {
        "beyond 3 of a problem, language and label": 34,
        "of a problem and language with one label only": 1,
    }
    # Whatever else is read, the same ones are drawn; another seed draws others.
    alone = prepare_rows(tmp_path / "alone", many("x", 20), max_solutions=3)
    assert alone == of_x
    job = CodeContestsJob(
        source=str(tmp_path / "in"),
        out_dir=tmp_path / "seed",
        settings=PrepareSettings(seed=1, codecontests=CodeContestsSettings(max_solutions=3)),
    )
    prepare_codecontests(job)
    assert outputs(read(tmp_path / "seed/train.jsonl")) != outputs(rows)


def test_the_order_of_the_rows_tells_nothing_about_labels(tmp_path: Path):
    labels = [row["is_correct"] for row in prepare_rows(tmp_path, many("x", 50))]
    changes = sum(first != second for first, second in itertools.pairwise(labels))
    assert 30 < changes < 70  # in order of labels it would be 1


def test_solutions_with_too_many_tokens_are_left_out(tmp_path: Path):
    tokenizer = make_tokenizer()
    row = problem(
        "x",
        description="Add.",
        solutions=solutions((PYTHON3, "x = 1"), (PYTHON3, "x = 1\n" * 200)),
        incorrect_solutions=solutions((PYTHON3, "ä" * 30), (PYTHON3, "x = 22")),
    )
    free = TokenLimit.create(tokenizer, "d", 10_000)
    prompt = len(free.encoder.encode_prompt("Add.").ids)
    lengths = {
        text: prompt + len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for column in ("solutions", "incorrect_solutions")
        for text in row[column]["solution"]
    }
    limit = sorted(lengths.values())[2]  # one is longer
    rows = prepare_rows(
        tmp_path, row, max_tokens=limit, limit=TokenLimit.create(tokenizer, "d", limit)
    )
    assert outputs(rows) == {text for text, length in lengths.items() if length <= limit}
    assert left_out(tmp_path) == {f"of more than {limit:,} tokens with the statement": 1}


def test_a_statement_too_long_takes_all_its_solutions_along(tmp_path: Path):
    limit = TokenLimit.create(make_tokenizer(), "d", 300)
    long = problem("long", description="word " * 500)
    prepare_rows(tmp_path, problem("x"), long, max_tokens=300, limit=limit)
    assert left_out(tmp_path, "problems") == {"without solutions that fit into 300 tokens": 1}


def test_a_limit_without_room_for_a_prompt_is_refused():
    with pytest.raises(
        ValueError, match=r"max_tokens is 2; the response mark alone has \d+ tokens"
    ):
        TokenLimit.create(make_tokenizer(), "d", 2)


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
    with pytest.raises(PrepareError, match="row 1: 'difficulty' is 99"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.json", "train.jsonl"]
    assert path.exists()


def test_other_settings_or_files_need_overwrite(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    write_problems(tmp_path / "in", "valid", [MIXED])
    prepare(tmp_path / "in", tmp_path / "out", format="parquet")
    with pytest.raises(PrepareError, match=r"made with max_solutions None, not 1; choose another"):
        prepare(tmp_path / "in", tmp_path / "out", format="parquet", max_solutions=1)
    with pytest.raises(PrepareError, match="made with other source files; choose another"):
        prepare(tmp_path / "in/train*", tmp_path / "out", format="parquet")
    prepare(tmp_path / "in/train*", tmp_path / "out", overwrite=True)
    # What the earlier run left is gone: a glob of the folder finds one dataset.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.json", "train.jsonl"]


def test_files_of_somebody_else_are_not_written_over(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.jsonl").write_text("mine")
    with pytest.raises(PrepareError, match=r"train\.jsonl: is there already, and no summary\.json"):
        prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/summary.json").write_text('{"mine": 1}')
    with pytest.raises(PrepareError, match="not a summary of prepare codecontests; choose another"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/train.jsonl").read_text() == "mine"


def test_files_of_other_names_are_told_apart_by_patterns(tmp_path: Path):
    for number, split in enumerate(("part", "held-out")):
        path = write_problems(tmp_path / "in", split, [problem(split)])
        path.rename(tmp_path / f"in/{split}-{number}.parquet")
    with pytest.raises(PrepareError, match=r"held-out-1\.parquet: by its name .* of no split"):
        prepare(tmp_path / "in", tmp_path / "out")
    patterns = ("validation=held-*", "train=part-*", "train=more-*")
    prepared = prepare(tmp_path / "in", tmp_path / "out", split_files=patterns)
    assert list(prepared.files) == ["train.jsonl", "valid.jsonl"]
    with pytest.raises(PrepareError, match=r"of train and valid; say which files are"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train=*", "valid=held*"))
    with pytest.raises(PrepareError, match="--split 'train' names no files"):
        prepare(tmp_path / "in", tmp_path / "x", split_files=("train",))


def test_a_published_file_that_was_not_downloaded_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_problems(tmp_path / "in", "train", [MIXED], number=3, total=39)
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path / "in", tmp_path / "out")
    assert caplog.messages == ["train: only 1 of 39 published files are here"]


def test_missing_files_are_told_with_their_path(tmp_path: Path):
    with pytest.raises(PrepareError, match=r"nowhere.* matches no file; check the path"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(PrepareError, match=r"holds no \.parquet file; download those of"):
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
    with pytest.raises(PrepareError, match=re.escape(told)) as error:
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
    with pytest.raises(PrepareError, match=re.escape(f"{path}:row 4: {told}")):
        prepare(tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_problem_without_a_name_is_told(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem("")])
    with pytest.raises(PrepareError, match=r":row 1: 'name' is ''; a problem is told by its name"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_damaged_file_is_told(tmp_path: Path):
    path = write_problems(tmp_path / "in", "train", [problem("x")])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PrepareError, match=r"parquet: cannot be read as Parquet \(.*\); fetch it"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_split_that_would_be_empty_is_refused_with_the_reason(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [problem("x"), problem("y")])
    told = r"train would hold no sample \(2 problems without solutions in the languages asked for\)"
    with pytest.raises(PrepareError, match=told):
        prepare(tmp_path / "in", tmp_path / "out", languages=("java",))
    pq.write_table(SCHEMA.empty_table(), tmp_path / "in/test-00000-of-00001.parquet")
    with pytest.raises(PrepareError, match=r"test would hold no sample \(there are no rows\)"):
        prepare(tmp_path / "in/test*", tmp_path / "out")


def test_languages_are_named_as_they_are_written():
    with pytest.raises(ValidationError, match="'python2', 'cpp', 'python3', 'java' or 'unknown'"):
        CodeContestsSettings(languages=("python",))
    with pytest.raises(ValidationError, match=r"languages \[\] takes none"):
        CodeContestsSettings(languages=())
