"""Rows of reward model benchmarks, with their original fields, become problems of samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from featurize.data.index import DatasetIndex
from featurize.data.pair_rows import to_pair_rows, write_plain_rows
from featurize.errors import DataError, RowFault
from tests.support.benchmark_rows import REWARD_BENCH, RM_BENCH
from tests.support.row_files import read_rows, write_rows


def write(tmp_path: Path, *rows: Any) -> str:
    return str(write_rows(tmp_path / "pairs.jsonl", rows))


def read(tmp_path: Path, *rows: Any) -> list[dict[str, Any]]:
    path = write_plain_rows(write(tmp_path, *rows), tmp_path / "cache")
    return read_rows(path)


def test_a_row_of_reward_bench_is_a_problem_of_two_samples() -> None:
    right, wrong = to_pair_rows(REWARD_BENCH)
    assert right["instruction"] == wrong["instruction"] == REWARD_BENCH["prompt"]
    assert (right["output"], right["is_correct"]) == (REWARD_BENCH["chosen"], True)
    assert (wrong["output"], wrong["is_correct"]) == (REWARD_BENCH["rejected"], False)
    assert right["problem_id"] == wrong["problem_id"]
    assert right["metadata"] == {"source": "hep-python"}
    assert [row["task_id"].partition("#")[2] for row in (right, wrong)] == [
        "correct.0",
        "incorrect.0",
    ]


def test_a_row_of_rm_bench_is_a_problem_of_six_samples() -> None:
    rows = to_pair_rows(RM_BENCH)
    assert [row["output"] for row in rows] == [*RM_BENCH["chosen"], *RM_BENCH["rejected"]]
    assert [row["is_correct"] for row in rows] == [True] * 3 + [False] * 3
    assert {row["problem_id"] for row in rows} == {rows[0]["problem_id"]}
    assert rows[4]["task_id"].endswith("#incorrect.1")
    assert rows[0]["metadata"] == {"source": "bigcode/humanevalpack", "language": "cpp"}


def test_the_domain_takes_precedence_over_the_subset() -> None:
    assert to_pair_rows(RM_BENCH | {"domain": "code"})[0]["metadata"]["source"] == "code"


def test_correct_and_incorrect_texts_are_named_by_their_pair() -> None:
    row = {"pair_id": 7, "prompt": "Add.", "correct": "a", "incorrect": ["b", "c"], "input": "1"}
    rows = to_pair_rows(row)
    assert [row["task_id"] for row in rows] == ["7#correct.0", "7#incorrect.0", "7#incorrect.1"]
    assert {(row["problem_id"], row["input"]) for row in rows} == {("7", "1")}


def test_plain_rows_of_a_pair_share_its_problem() -> None:
    sample = {"instruction": "Add.", "output": "a", "is_correct": True, "subset": "easy"}
    [named] = to_pair_rows(sample | {"pair_id": "p"})
    assert (named["problem_id"], named["metadata"]) == ("p", {"source": "easy"})
    [plain] = to_pair_rows(sample | {"metadata": {"source": "s", "difficulty": 2}, "subset": None})
    assert "problem_id" not in plain
    assert plain["metadata"] == {"source": "s", "difficulty": 2}
    [unpaired] = to_pair_rows({"prompt": "Add.", "completion": "a", "label": False, "pair_id": "q"})
    assert (unpaired["problem_id"], unpaired["is_correct"]) == ("q", False)


def test_messages_are_one_answer_and_not_a_list_of_answers() -> None:
    answer = [{"role": "assistant", "content": "a"}]
    rows = to_pair_rows({"prompt": "Add.", "chosen": answer, "rejected": answer[:]})
    assert [row["output"] for row in rows] == ["a", "a"]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": "Add.", "chosen": "a"}, "'rejected' is missing"),
        ({"prompt": "Add.", "incorrect": "a"}, "'chosen' is missing"),
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing"),
        ({"prompt": "Add.", "chosen": ["a", 1], "rejected": "b"}, "'chosen'"),
        (["chosen"], "must be one JSON object"),
    ],
)
def test_a_row_that_is_not_a_pair_is_refused(row: Any, part: str) -> None:
    with pytest.raises(RowFault, match=part):
        to_pair_rows(row)


def test_two_pairs_of_one_prompt_are_two_problems(tmp_path: Path) -> None:
    other = REWARD_BENCH | {"rejected": "return None"}
    rows = read(tmp_path, REWARD_BENCH, other)
    assert len({row["problem_id"] for row in rows}) == 2


def test_a_repeated_pair_is_another_problem(tmp_path: Path) -> None:
    rows = read(tmp_path, REWARD_BENCH, REWARD_BENCH, REWARD_BENCH)
    assert len({row["problem_id"] for row in rows}) == 3
    index = DatasetIndex.build(write(tmp_path, *rows), tmp_path / "cache")
    assert (len(index), index.num_problems) == (6, 3)


def test_pairs_of_one_pair_id_are_not_compared_with_each_other(tmp_path: Path) -> None:
    pairs = [
        {"pair_id": name, "prompt": "Add.", "chosen": f"a{place}", "rejected": f"b{place}"}
        for place, name in enumerate(["p#2", "p", "p", "q", "p", "p#3"])
    ]
    rows = read(tmp_path, *pairs)
    names = [row["problem_id"] for row in rows]
    assert names[::2] == names[1::2] == ["p#2", "p", "p#3", "q", "p#4", "p#3#2"]
    assert rows[4]["task_id"] == "p#3#correct.0"
    index = DatasetIndex.build(write(tmp_path, *rows), tmp_path / "cache")
    assert (len(index), index.num_problems) == (12, 6)


def test_a_repeated_task_id_is_refused_by_the_lines_of_the_file(tmp_path: Path) -> None:
    sample = {"instruction": "Add.", "output": "a", "is_correct": True, "task_id": 7}
    path = write(tmp_path, REWARD_BENCH, sample, sample | {"output": "b", "task_id": "7"})
    with pytest.raises(DataError, match=r"pairs\.jsonl:3: 'task_id' '7' is taken by .*jsonl:2;"):
        write_plain_rows(path, tmp_path / "cache")


def test_a_uri_is_copied_into_the_folder_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fsspec.filesystem("memory").pipe("/b/pairs.jsonl", json.dumps(REWARD_BENCH).encode())
    path = write_plain_rows("memory://b/pairs.jsonl", tmp_path / "cache")
    assert len(path.read_text().splitlines()) == 2
    assert not (tmp_path / "home").exists()
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file != path]


def test_a_file_is_written_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path, REWARD_BENCH)
    first = write_plain_rows(path, tmp_path / "cache")
    before = first.stat().st_mtime_ns
    assert write_plain_rows(path, tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == before
    write(tmp_path, REWARD_BENCH, RM_BENCH)
    assert write_plain_rows(path, tmp_path / "cache") != first


def test_every_bad_row_is_listed_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, REWARD_BENCH, {"chosen": "a"}, RM_BENCH, {"prompt": "p", "chosen": ""})
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: ") as caught:
        write_plain_rows(path, tmp_path / "cache")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        f"{path}:2",
        f"{path}:4",
    ]
    assert not list((tmp_path / "cache").glob("*.jsonl"))


def test_parquet_files_are_read_with_all_fields_of_a_pair(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([REWARD_BENCH]), tmp_path / "pairs.parquet")
    path = write_plain_rows(str(tmp_path / "pairs.parquet"), tmp_path / "cache")
    assert [json.loads(line)["metadata"]["source"] for line in path.open()] == ["hep-python"] * 2
