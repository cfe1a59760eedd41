"""Rows of benchmarks with several answers and of sets for judges, and what is kept of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.pair_rows import (
    BenchmarkRow,
    attribute_of,
    read_benchmark_rows,
    to_pair_rows,
    write_plain_rows,
)
from featurize.errors import RowFault
from tests.support.benchmark_rows import (
    CODE_JUDGE_BENCH,
    JUDGE_BENCH,
    REWARD_BENCH,
    REWARD_BENCH_2,
    THEMIS,
    TIES,
)


def read(tmp_path: Path, *rows: Any) -> list[BenchmarkRow]:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_benchmark_rows(write_plain_rows(str(path), tmp_path / "cache"))


def test_a_row_of_lists_is_one_problem_with_every_chosen_answer_correct() -> None:
    rows = to_pair_rows(TIES)
    assert [row["output"] for row in rows] == [*TIES["chosen"], *TIES["rejected"]]
    assert [row["is_correct"] for row in rows] == [True] * 3 + [False] * 2
    assert len({row["problem_id"] for row in rows}) == 1
    assert rows[0]["metadata"] == {"source": "Ties"}


def test_rows_are_read_back_in_their_order_with_ids_and_groups(tmp_path: Path) -> None:
    ranked, tied, pair, plain = read(tmp_path, REWARD_BENCH_2, TIES, THEMIS, REWARD_BENCH)
    assert (ranked.id, tied.id, pair.id, plain.id) == ("17", "tied:3", "themis-1", "4071")
    assert (ranked.subset, tied.subset, plain.subset) == ("Math", "Ties", "hep-python")
    assert (pair.aspect, pair.language) == ("Readability_Maintainability", "C++")
    assert ranked.aspect is None
    assert (len(ranked.correct), len(ranked.incorrect)) == (1, 3)
    assert tied.correct == tuple(f"{tied.problem_id}#correct.{n}" for n in range(3))
    assert [row.is_pair for row in (ranked, tied, pair, plain)] == [False, False, True, True]


def test_a_repeated_row_is_another_row(tmp_path: Path) -> None:
    first, second = read(tmp_path, THEMIS, THEMIS)
    assert first.problem_id != second.problem_id
    assert (first.id, second.id) == ("themis-1", "themis-1")


def test_samples_are_no_rows_of_a_benchmark(tmp_path: Path) -> None:
    sample = {"instruction": "Add.", "output": "a", "is_correct": True, "id": 1, "subset": "easy"}
    assert [row.id for row in read(tmp_path, sample, THEMIS)] == ["themis-1"]


def test_a_group_that_is_no_single_value_is_left_out_and_not_refused(tmp_path: Path) -> None:
    [row] = read(tmp_path, THEMIS | {"aspect": ["a", "b"], "id": " "})
    assert (row.aspect, row.id) == (None, row.problem_id)


def test_groups_of_samples_come_from_the_row_of_their_problem(tmp_path: Path) -> None:
    rows = read(tmp_path, THEMIS, REWARD_BENCH)
    ids = [rows[1].problem_id, rows[0].problem_id, "another"]
    found = attribute_of(rows, "aspect", ids).tolist()
    assert found == [None, "Readability_Maintainability", None]


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    rows = [THEMIS, THEMIS | {"id": "themis-2", "aspect": "Security_Hardness", "prompt": "Other."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    path = write_plain_rows(str(tmp_path / "pairs.parquet"), tmp_path / "cache")
    assert read_benchmark_rows(path) == read(tmp_path, *rows)


@pytest.mark.parametrize(("label", "right"), [("B>A", "response_B"), ("A>B", "response_A")])
def test_the_label_of_judge_bench_says_which_response_is_correct(label: str, right: str) -> None:
    correct, incorrect = to_pair_rows(JUDGE_BENCH | {"label": label})
    assert correct["output"] == JUDGE_BENCH[right]
    assert (correct["is_correct"], incorrect["is_correct"]) == (True, False)
    assert correct["instruction"] == JUDGE_BENCH["question"]
    assert correct["problem_id"] == "81ec57f2"
    assert correct["metadata"] == {"source": "livecodebench"}
    assert correct["benchmark"]["subset"] == "livecodebench"


@pytest.mark.parametrize("label", ["A=B", None, True, ["A>B"]])
def test_a_pair_without_a_better_response_is_refused(label: Any) -> None:
    with pytest.raises(RowFault, match=r"'label' is .*A>B"):
        to_pair_rows(JUDGE_BENCH | {"label": label})


def test_a_row_of_code_judge_bench_keeps_starter_code_and_difficulty() -> None:
    correct, incorrect = to_pair_rows(CODE_JUDGE_BENCH)
    assert (correct["output"], incorrect["output"]) == (
        CODE_JUDGE_BENCH["pos_response"],
        CODE_JUDGE_BENCH["neg_response"],
    )
    assert correct["instruction"] == CODE_JUDGE_BENCH["question_content"]
    assert correct["input"] == CODE_JUDGE_BENCH["starter_code"]
    assert correct["metadata"] == {"difficulty": "easy"}
    assert "input" not in to_pair_rows(CODE_JUDGE_BENCH | {"starter_code": " "})[0]
