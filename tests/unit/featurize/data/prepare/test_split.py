"""A dataset is split by problem; statements that are nearly the same stay on one side."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.prepare.prepared import Prepared
from featurize.data.prepare.split import (
    SplitJob,
    group_problems,
    prepare_split,
    split_groups,
    to_sizes,
)
from featurize.errors import CriticError, DataError
from tests.support.row_files import write_rows

WORDS = [f"word{number}" for number in range(300)]


def statement(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=120))


def make_rows(num_problems: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": statement(problem),
            "output": f"{problem} {label}",
            "is_correct": label,
            "problem_id": f"p{problem}",
            "extra": [problem],
        }
        for problem in range(num_problems)
        for label in (True, False)
    ]


def split(source: Path, out: Path, *, overwrite: bool = False, **settings: Any) -> Prepared:
    job = SplitJob(sources=[str(source)], out_dir=out, **settings)
    return prepare_split(job, overwrite=overwrite)


def problems_of(folder: Path) -> dict[str, set[str]]:
    return {
        path.stem: {json.loads(line)["problem_id"] for line in path.read_text().splitlines()}
        for path in folder.glob("*.jsonl")
    }


def test_problems_are_split_whole_by_the_shares(tmp_path: Path):
    source = write_rows(tmp_path / "in.jsonl", make_rows(40))
    prepared = split(source, tmp_path / "out", valid=0.1, test=0.2)
    problems = problems_of(tmp_path / "out")
    assert {name: len(ids) for name, ids in problems.items()} == {
        "train": 28,
        "valid": 4,
        "test": 8,
    }
    assert len(set.union(*problems.values())) == 40
    assert {name: (c.problems, c.correct, c.incorrect) for name, c in prepared.counts.items()} == {
        "train": (28, 28, 28), "valid": (4, 4, 4), "test": (8, 8, 8),
    }  # fmt: skip


def test_rows_are_copied_unchanged(tmp_path: Path):
    lines = [json.dumps(row) for row in make_rows(10)]
    lines[3] = lines[3].replace('": ', '"  :   ')
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())  # no line break at the end
    split(source, tmp_path / "out")
    written = [
        line
        for path in (tmp_path / "out").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted(written) == sorted(lines)


def test_near_duplicates_stay_on_one_side_even_in_chains(tmp_path: Path):
    rows = make_rows(30)
    words = statement(0).split()
    chain = []
    for step in range(8):  # each is near the one before; the first and the last are not near
        words[step * 14] = "changed"
        chain.append({**rows[0], "instruction": " ".join(words), "problem_id": f"chain{step}"})
    source = write_rows(tmp_path / "in.jsonl", [*rows, *chain])
    sides = set()
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        prepared = split(source, out, valid=0.4, test=0.3, seed=seed)
        assert prepared.details == {
            "groups of near-duplicate statements": 1,
            "problems in such groups": 9,
            "problems in the largest": 9,
        }
        [side] = [n for n, ids in problems_of(out).items() if any("chain" in i for i in ids)]
        assert "p0" in problems_of(out)[side]
        sides.add(side)
    assert len(sides) > 1  # the group is drawn like any other


def test_a_problem_of_two_statements_joins_what_is_near_to_either() -> None:
    groups = group_problems(
        [(0, statement(0)), (1, statement(1)), (1, statement(0).upper()), (2, statement(2))],
        num_problems=4,
        threshold=0.8,
        ngram=5,
    )
    assert groups == [[0, 1], [2], [3]]


def test_the_similarity_decides_what_a_near_duplicate_is(tmp_path: Path):
    rows = make_rows(9)
    words = statement(0).split()
    words[50] = words[70] = "changed"
    rows.append({**rows[0], "instruction": " ".join(words), "problem_id": "near"})
    source = write_rows(tmp_path / "in.jsonl", rows)
    for similarity, expected in ((0.8, 1), (0.95, 0)):
        prepared = split(source, tmp_path / f"{similarity}", similarity=similarity)
        assert next(iter(prepared.details.values())) == expected


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path):
    rows = make_rows(30)
    split(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "a")
    split(write_rows(tmp_path / "b.jsonl", rows[::-1]), tmp_path / "b")
    split(tmp_path / "a.jsonl", tmp_path / "c", seed=1)
    assert problems_of(tmp_path / "a") == problems_of(tmp_path / "b")
    assert problems_of(tmp_path / "a") != problems_of(tmp_path / "c")


def test_a_group_too_large_for_a_split_goes_to_train():
    groups = [[f"big{number}" for number in range(6)], ["a"], ["b"], ["c"], ["d"]]
    for seed in range(5):
        splits = split_groups(groups, sizes={"valid": 2, "test": 2}, rest="train", seed=seed)
        sizes = {name: list(splits.values()).count(name) for name in ("train", "valid", "test")}
        assert sizes == {"train": 6, "valid": 2, "test": 2}
        assert splits["big0"] == "train"


def test_no_problem_is_lost_to_rounding():
    for number in range(12):
        thirds = to_sizes({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, number)
        assert sum(thirds.values()) == number
    sizes = to_sizes({"train": 0.7, "valid": 0.3, "test": 0.0}, 11)
    assert sizes == {"train": 8, "valid": 3, "test": 0}


def test_a_split_without_problems_is_refused(tmp_path: Path):
    rows = [{**row, "instruction": "The same for all."} for row in make_rows(5)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(CriticError, match=r"valid would get none of the 5 problems .* has 5\)"):
        split(source, tmp_path / "out", valid=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"valid": -0.1}, "--valid is -0.1;"),
        ({"test": 1.0}, "--test is 1;"),
        ({"valid": float("nan")}, "--valid is nan;"),
        ({"valid": 0.5, "test": 0.5}, "--valid 0.5 and --test 0.5"),
    ],
)
def test_impossible_shares_are_refused(tmp_path: Path, shares: dict[str, float], message: str):
    with pytest.raises(CriticError, match=message):
        SplitJob(sources=["x"], out_dir=tmp_path, **shares)


def test_parquet_and_compressed_files_are_split_too(tmp_path: Path):
    rows = make_rows(10)
    pq.write_table(pa.Table.from_pylist(rows[:10]), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[10:])
    job = SplitJob(sources=[str(tmp_path / "*.*")], out_dir=tmp_path / "out")
    prepare_split(job)
    written = [str(path) for path in (tmp_path / "out").glob("*.jsonl")]
    whole = DatasetIndex.build(str(write_rows(tmp_path / "all.jsonl", rows)), tmp_path / "cache")
    parts = DatasetIndex.build(written, tmp_path / "cache")
    assert parts.content_fingerprint == whole.content_fingerprint


def test_preference_rows_are_split_by_their_prompts(tmp_path: Path):
    rows = [
        {"prompt": statement(seed % 10), "chosen": f"good {seed}", "rejected": f"bad {seed}"}
        for seed in range(20)
    ]
    prepared = split(write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out", test=0)
    assert list(prepared.files) == ["train.jsonl", "valid.jsonl"]
    assert prepared.counts["valid"].problems == 1
    assert prepared.counts["valid"].samples == 4
    assert len((tmp_path / "out/valid.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*make_rows(5), {"instruction": "x"}], r"in\.jsonl:11: 'output' is missing"),
        ([], r"in\.jsonl: has no rows"),
    ],
)
def test_bad_and_missing_rows_are_reported(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
):
    with pytest.raises(DataError, match=message):
        split(write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out")
