"""CodeContests becomes samples, and everything that is left out is counted."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from featurize.data.formats import Prompt
from featurize.data.index import DatasetIndex
from featurize.data.prepare.codecontests.problems import DIFFICULTIES, LANGUAGES, SOURCES
from featurize.data.prepare.codecontests.selection import TokenLimit
from featurize.errors import CriticError
from tests.support.contests import (
    CPP,
    JAVA,
    MIXED,
    PYTHON3,
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


def test_unknown_labels_and_a_rating_of_0_are_null(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x", source=0, difficulty=0, cf_rating=0))
    assert {row["problem_id"] for row in rows} == {"unknown/x"}
    nothing = {"source": None, "difficulty": None, "cf_rating": None}
    assert all(row["metadata"] == {"language": "python3", **nothing} for row in rows)


def test_the_rating_can_be_the_difficulty(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x"), problem("y", cf_rating=0), difficulty="cf_rating")
    found = {row["problem_id"]: row["metadata"]["difficulty"] for row in rows}
    assert found == {"codeforces/x": "800", "codeforces/y": None}


def test_problems_of_one_name_and_two_sources_are_two_problems(tmp_path: Path):
    rows = prepare_rows(tmp_path, problem("x", source=5), problem("x", source=6))
    assert {row["problem_id"] for row in rows} == {"atcoder/x", "aizu/x"}


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


def test_one_label_is_enough_if_asked_for(tmp_path: Path):
    only = problem("only", incorrect_solutions=solutions())
    assert len(prepare_rows(tmp_path, MIXED, only, require_both_labels=False)) == 9


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
    assert left_out(tmp_path, "problems") == {"that are duplicates (same source and name)": 1}
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
    assert left_out(tmp_path) == {
        "beyond 3 of a problem, language and label": 34,
        "of a problem and language with one label only": 1,
    }
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
    rows = prepare_rows(
        tmp_path, row, max_tokens=limit, limit=TokenLimit.create(tokenizer, "d", limit)
    )
    assert outputs(rows) == {text for text, length in lengths.items() if length <= limit}
    assert left_out(tmp_path) == {f"of more than {limit:,} tokens with the statement": 1}


def test_all_solutions_of_a_statement_that_is_too_long_are_left_out(tmp_path: Path):
    limit = TokenLimit.create(make_tokenizer(), "d", 300)
    long = problem("long", description="word " * 500)
    prepare_rows(tmp_path, problem("x"), long, max_tokens=300, limit=limit)
    assert left_out(tmp_path, "problems") == {"without solutions that fit into 300 tokens": 1}


def test_a_limit_without_room_for_a_prompt_is_refused():
    with pytest.raises(CriticError, match=r"max_tokens is 2; .* \d+ tokens"):
        TokenLimit.create(make_tokenizer(), "d", 2)
