"""CodeContests becomes samples; what is left out is counted, and mistakes are told by file."""

import itertools
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from featurize.data.formats import Prompt
from featurize.data.index import DatasetIndex
from featurize.data.prepare.codecontests.problems import DIFFICULTIES, LANGUAGES, SOURCES
from featurize.data.prepare.codecontests.selection import TokenLimit
from featurize.data.prepare.settings import CodeContestsSettings
from featurize.errors import CriticError
from tests.support.contests import (
    CPP,
    JAVA,
    MIXED,
    PYTHON3,
    SCHEMA,
    left_out,
    outputs,
    prepare,
    prepare_rows,
    problem,
    read,
    solutions,
    write_problems,
)
from tests.support.tiny_models import make_tokenizer


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


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (
            [problem("x", source=0, difficulty=0, cf_rating=0)],
            {},
            {"unknown/x": {"source": None, "difficulty": None, "cf_rating": None}},
        ),
        (
            [problem("x"), problem("y", cf_rating=0)],
            {"difficulty": "cf_rating"},
            {
                "codeforces/x": {"difficulty": "800", "cf_rating": 800},
                "codeforces/y": {"difficulty": None, "cf_rating": None},
            },
        ),
        # Problems of one name and two sources are two problems.
        (
            [problem("x", source=5), problem("x", source=6)],
            {},
            {"atcoder/x": {"source": "atcoder"}, "aizu/x": {"source": "aizu"}},
        ),
    ],
    ids=["unknown", "rating", "sources"],
)
def test_labels_of_a_problem_become_metadata(
    tmp_path: Path, rows: list[Any], settings: dict[str, Any], expected: dict[str, Any]
):
    found = {
        row["problem_id"]: row["metadata"] for row in prepare_rows(tmp_path, *rows, **settings)
    }
    assert found.keys() == expected.keys()
    assert all(expected[name].items() <= found[name].items() for name in expected)


def test_every_split_becomes_a_file_that_the_index_reads(tmp_path: Path):
    for split, names in (("train", "ab"), ("valid", "e"), ("test", "fg")):
        for number, name in enumerate(names):
            rows = [problem(name), problem(name * 2)]
            write_problems(tmp_path / "in/data", split, rows, number=number, total=2)
    prepared = prepare(tmp_path / "in", tmp_path / "out")
    found = {split: counts.problems for split, counts in prepared.counts.items()}
    assert found == {"train": 4, "valid": 2, "test": 4}
    index = DatasetIndex.build(str(tmp_path / "out/train.jsonl"), tmp_path / "cache")
    assert (len(index), index.num_problems) == (8, 4)


def test_parquet_holds_what_jsonl_holds(tmp_path: Path):
    write_problems(tmp_path / "in", "train", [MIXED, problem("é", difficulty=0, cf_rating=0)])
    prepare(tmp_path / "in", tmp_path / "out")
    prepared = prepare(tmp_path / "in", tmp_path / "out2", format="parquet")
    table = pq.read_table(tmp_path / "out2/train.parquet")
    assert table.to_pylist() == read(tmp_path / "out/train.jsonl")
    assert list(prepared.files) == ["train.parquet"]
    plain, packed = (
        DatasetIndex.build(str(path), tmp_path / "cache")
        for path in (tmp_path / "out/train.jsonl", tmp_path / "out2/train.parquet")
    )
    assert plain.content_fingerprint == packed.content_fingerprint


@pytest.mark.parametrize(
    ("settings", "expected", "reason"),
    [
        ({"languages": ("python3", "cpp")}, "p1 p2 p3 c1 c2", "in other languages"),
        # Without Java, which is never incorrect.
        ({}, "p1 p2 p3 c1 c2 o n", "of a problem and language with one label only"),
        ({"require_both_labels": False}, "p1 p2 p3 c1 c2 o n j1", None),
    ],
)
def test_languages_are_taken_as_asked_for_and_with_both_labels(
    tmp_path: Path, settings: dict[str, Any], expected: str, reason: str | None
):
    assert outputs(prepare_rows(tmp_path, MIXED, **settings)) == set(expected.split())
    num_left_out = 8 - len(expected.split())
    assert left_out(tmp_path) == ({reason: num_left_out} if reason else {})


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"incorrect_solutions": solutions((CPP, "c"))}, "without both labels in a language"),
        ({"description": " \n"}, "without a statement"),
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
            dict.fromkeys(("solutions", "incorrect_solutions"), solutions((PYTHON3, "p"))),
            "with contradicting labels only",
        ),
    ],
)
def test_problems_that_give_nothing_are_counted_by_reason(
    tmp_path: Path, columns: dict[str, Any], reason: str
):
    settings: Any = {"languages": ("python3", "cpp"), "max_chars": 50}
    rows = prepare_rows(tmp_path, problem("good"), problem("bad", **columns), **settings)
    assert {row["problem_id"] for row in rows} == {"codeforces/good"}
    assert left_out(tmp_path, "problems") == {reason: 1}


def test_duplicate_and_contradicting_programs_are_left_out(tmp_path: Path):
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
        "empty": 1, "both correct and incorrect": 2, "that are duplicates": 1,
    }  # fmt: skip


def test_duplicates_can_be_kept(tmp_path: Path):
    row = problem("x", solutions=solutions((PYTHON3, "a"), (PYTHON3, "a"), (PYTHON3, "wrong x")))
    rows = prepare_rows(tmp_path, row, keep_duplicates=True)
    assert len(rows) == len({row["task_id"] for row in rows}) == 4


def test_a_duplicate_problem_is_left_out(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x"), problem("y"), problem("x", description="Other."))
    assert {row["instruction"] for row in rows} == {"Solve x.", "Solve y."}
    assert list(left_out(tmp_path, "problems").values()) == [1]
    assert left_out(tmp_path) == {"of duplicate problems": 2}


def many(name: str, number: int) -> dict[str, Any]:
    return problem(
        name,
        solutions=solutions(*((PYTHON3, f"right {i}") for i in range(number))),
        incorrect_solutions=solutions(
            *((PYTHON3, f"wrong {i}") for i in range(number)), (CPP, "wrong")
        ),
    )


def test_max_solutions_of_a_label_are_drawn_by_the_seed(tmp_path: Path):
    rows = prepare_rows(tmp_path, many("x", 20), problem("y"), max_solutions=3)
    of_x = [row for row in rows if row["problem_id"] == "codeforces/x"]
    assert sorted(row["is_correct"] for row in of_x) == [False] * 3 + [True] * 3
    assert len(rows) == 8
    assert left_out(tmp_path)["beyond 3 of a problem, language and label"] == 34
    # The draw depends on the seed, not on the other problems.
    alone = prepare_rows(tmp_path / "alone", many("x", 20), max_solutions=3)
    assert alone == of_x
    prepare(tmp_path / "in", tmp_path / "seed", seed=1, max_solutions=3)
    assert outputs(read(tmp_path / "seed/train.jsonl")) != outputs(rows)


def test_the_order_of_the_rows_is_independent_of_their_labels(tmp_path: Path):
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
    prompt = len(free.format.read(Prompt("Add.")).ids)
    lengths = {
        text: prompt + len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for column in ("solutions", "incorrect_solutions")
        for text in row[column]["solution"]
    }
    limit = sorted(lengths.values())[2]  # one is longer
    limited = TokenLimit.create(tokenizer, "d", limit)
    rows = prepare_rows(tmp_path, row, max_tokens=limit, limit=limited)
    assert outputs(rows) == {text for text, length in lengths.items() if length <= limit}
    assert left_out(tmp_path) == {f"of more than {limit:,} tokens with the statement": 1}


def test_a_statement_without_room_for_solutions_is_left_out_and_for_itself_refused(tmp_path: Path):
    limit = TokenLimit.create(make_tokenizer(), "d", 300)
    long = problem("long", description="word " * 500)
    prepare_rows(tmp_path, problem("x"), long, max_tokens=300, limit=limit)
    assert left_out(tmp_path, "problems") == {"without solutions that fit into 300 tokens": 1}
    with pytest.raises(CriticError, match=r"max_tokens is 2; .* \d+ tokens"):
        TokenLimit.create(make_tokenizer(), "d", 2)


# --- runs and files


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
    train, valid = (tmp_path / f"out/{split}.jsonl" for split in ("train", "valid"))
    before, content = train.stat().st_mtime_ns, valid.read_bytes()
    valid.unlink()
    again = prepare(tmp_path / "in", tmp_path / "out")
    assert (again.counts, again.files) == (made.counts, made.files)
    assert (train.stat().st_mtime_ns, valid.read_bytes()) == (before, content)


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
    for options, told in (
        ("train=* valid=held*", "of train and valid"),
        ("train", "names no files"),
    ):
        with pytest.raises(CriticError, match=told):
            prepare(tmp_path / "in", tmp_path / "x", split_files=tuple(options.split()))


def test_published_files_that_are_missing_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_problems(tmp_path / "in", "train", [MIXED], number=3, total=39)
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path / "in", tmp_path / "out")
    assert "only 1 of 39" in caplog.text


def rewrite_column(path: Path, name: str, column: pa.Array | None) -> None:
    table = pq.read_table(path).drop_columns([name])
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


def test_a_source_that_is_damaged_or_not_there_is_named(tmp_path: Path):
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CriticError, match=f"{source}"):
            prepare(source, tmp_path / "out")
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
