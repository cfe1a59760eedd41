"""The index: order by content, one pass, random access, the cache and changed files."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import featurize.data.index as index_module
from featurize.data.index import DatasetIndex
from featurize.data.records import Sample
from featurize.errors import DataError
from tests.support.indexed import parse_row
from tests.support.row_files import write_rows


def make_rows(count: int = 24) -> list[dict]:
    """Make rows of four problems; every third has default ids, every fifth is a preference."""
    rows = []
    for n in range(count):
        row = {
            "instruction": f"Task {n % 4} é\u2028",
            "input": "5" * (n % 2),
            "output": f"print({n})\n" * (1 + n % 3),
            "is_correct": [True, False, None][n % 3],
            "metadata": {"language": ["c", "py", None][n % 3], "source": f"s{n % 2}"},
        }
        if n % 3:
            row |= {"task_id": f"t{n}", "problem_id": f"p{n % 4}"}
        if n % 5 == 4:
            row = {"prompt": f"Task {n % 4}", "chosen": f"a{n}", "rejected": f"b{n}"}
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> str:
    return str(write_rows(path, rows))


def build(paths, tmp_path: Path, **options) -> DatasetIndex:
    return DatasetIndex.build(paths, tmp_path / "cache", **options)


def by_id(samples) -> dict[str, Sample]:
    return {sample.task_id: sample for sample in samples}


def test_the_columns_say_what_the_texts_are(tmp_path):
    row = {
        "instruction": "größer",
        "input": "12",
        "output": "print()",
        "is_correct": False,
        "problem_id": "p",
        "task_id": "t",
        "metadata": {"language": "py", "difficulty": 3},
    }
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    index = build(path, tmp_path)
    assert (len(index), index.num_problems) == (1, 1)
    [columns] = index.table.to_pylist()
    assert {key: columns[key] for key in columns if not key.endswith("_key")} == {
        "task_id": "t",
        "problem_id": "p",
        "is_correct": False,
        "language": "py",
        "difficulty": "3",
        "source": None,
        "file": 0,
        "line": 1,
        "offset": 0,
        "length": Path(path).stat().st_size,
        "part": 0,
        "prompt_chars": 8,
        "output_chars": 7,
    }
    assert len(columns["prompt_key"]) == len(columns["output_key"]) == 16


def test_rows_are_sorted_by_their_keys(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    keys = [
        tuple(index.table[name][row].as_py() for name in ("prompt_key", "output_key", "task_id"))
        for row in range(len(index))
    ]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"is_correct": None},
        {"output": "x"},
        {"input": "x"},
        {"problem_id": "x"},
        {"task_id": "x"},
        {"metadata": {"language": "x"}},
        {"metadata": {"language": None, "source": "py"}},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_the_content_and_nothing_else(tmp_path, change):
    row = {
        "instruction": "a",
        "output": "b",
        "is_correct": True,
        "problem_id": "p",
        "task_id": "t",
        "metadata": {"language": "py"},
    }
    one = build(write_jsonl(tmp_path / "a.jsonl", [row]), tmp_path)
    two = build(write_jsonl(tmp_path / "b.jsonl", [row | change]), tmp_path)
    three = build(write_jsonl(tmp_path / "c.jsonl", [row | {"ignored": 1}]), tmp_path)
    assert one.content_fingerprint != two.content_fingerprint
    assert one.content_fingerprint == three.content_fingerprint


def write_as(folder: Path, suffix: str, rows: list[dict]) -> str:
    path = folder / f"train{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        compress = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}
        path.write_bytes(compress[suffix](lines))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_random_access_gives_the_samples_of_the_rows(tmp_path, suffix):
    rows = [row for row in make_rows() if suffix != ".parquet" or "chosen" not in row]
    path = write_as(tmp_path, suffix, rows)
    index = build(path, tmp_path)
    if suffix == ".parquet":
        rows = pa.Table.from_pylist(rows).to_pylist()  # has only the columns of the first row
    place = f"{path}:row " if suffix == ".parquet" else f"{path}:"
    read = [s for n, row in enumerate(rows, 1) for s in parse_row(row, f"{place}{n}")]
    order = np.random.default_rng(0).permutation(len(index))
    samples = index.read(order)
    assert [s.task_id for s in samples] == index.table["task_id"].take(order).to_pylist()
    assert by_id(samples) == by_id(read)
    assert len(samples) == len(read) == len(by_id(read))


def test_rows_may_be_read_twice_or_not_at_all(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    first, other, again = index.read(np.array([3, 1, 3]))
    assert first == again != other
    assert index.read(np.array([], np.int64)) == []


def test_an_index_reads_after_pickling(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    rows = np.arange(len(index))
    assert pickle.loads(pickle.dumps(index)).read(rows) == index.read(rows)


def test_a_second_build_reads_no_row(tmp_path, monkeypatch):
    paths = [write_as(tmp_path, suffix, make_rows()) for suffix in (".jsonl.gz",)]
    first = build(paths, tmp_path)
    monkeypatch.setattr(index_module, "scan_files", lambda *_, **__: pytest.fail("scanned"))
    monkeypatch.setattr("featurize.data.sources._read_blocks", lambda _: pytest.fail("unpacked"))
    second = build(paths, tmp_path)
    assert second.table.equals(first.table)
    assert second.content_fingerprint == first.content_fingerprint
    assert second.read(np.arange(3)) == first.read(np.arange(3))


def test_a_changed_file_is_indexed_again_and_not_read_by_the_old_index(tmp_path):
    path = Path(write_jsonl(tmp_path / "a.jsonl", make_rows()))
    old = build(str(path), tmp_path)
    write_jsonl(path, make_rows(7))
    assert len(build(str(path), tmp_path)) == 8
    with pytest.raises(DataError, match=r"a\.jsonl: has changed since it was indexed; start again"):
        old.read(np.array([0]))
    path.unlink()
    with pytest.raises(DataError, match="has changed"):
        old.read(np.array([0]))


def test_a_missing_copy_is_refused_and_a_new_build_writes_it(tmp_path):
    path = write_as(tmp_path, ".jsonl.gz", make_rows())
    index = build(path, tmp_path)
    index.copies[0].unlink()
    with pytest.raises(DataError, match=r"its plain copy .* is gone; start again"):
        index.read(np.array([0]))
    assert build(path, tmp_path).read(np.array([0]))


def test_a_damaged_cache_is_written_again(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", make_rows())
    table = build(path, tmp_path).table
    [cached] = (tmp_path / "cache").iterdir()
    content = cached.read_bytes()
    cached.unlink()  # the table above still maps the old bytes
    cached.write_bytes(content[: len(content) // 2])
    assert build(path, tmp_path).table.equals(table)


def test_taking_problems_keeps_whole_problems_whatever_the_file_order(tmp_path):
    rows = make_rows()
    index = build(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path)
    other = build(write_jsonl(tmp_path / "b.jsonl", rows[::-1]), tmp_path)
    taken, taken_other = index.take_problems(3), other.take_problems(3)
    assert taken.num_problems == 3
    assert taken.content_fingerprint == taken_other.content_fingerprint
    kept = set(taken.table["problem_id"].to_pylist())
    expected = [task for task, problem in zip(*ids(index), strict=True) if problem in kept]
    assert taken.table["task_id"].to_pylist() == expected
    assert set(index.take_problems(2).table["problem_id"].to_pylist()) < kept
    assert len(taken.read(np.arange(len(taken)))) == len(taken)


def ids(index: DatasetIndex) -> tuple[list[str], list[str]]:
    return index.table["task_id"].to_pylist(), index.table["problem_id"].to_pylist()


def test_a_part_has_the_fingerprint_of_a_dataset_of_that_part_alone(tmp_path):
    rows = [row | {"task_id": f"i{n}"} for n, row in enumerate(make_rows())]
    taken = build(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path).take_problems(2)
    kept = set(taken.table["task_id"].to_pylist())
    alone = [row for row in rows if {row["task_id"], f"{row['task_id']}-chosen"} & kept]
    index = build(write_jsonl(tmp_path / "b.jsonl", alone), tmp_path)
    assert 0 < len(index) < len(rows)
    assert index.content_fingerprint == taken.content_fingerprint


def test_taking_more_problems_than_there_are_takes_all(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    assert index.take_problems(99).content_fingerprint == index.content_fingerprint
    with pytest.raises(DataError, match="limit of problems is 0; it must be at least 1"):
        index.take_problems(0)


def test_an_index_of_no_row_is_an_index(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    none = index.take(np.zeros(len(index), bool))
    assert (len(none), none.num_problems, none.read(np.array([], np.int64))) == (0, 0, [])
    assert none.content_fingerprint != index.content_fingerprint


def test_the_fingerprint_of_a_dataset_is_what_it_was_in_other_versions(tmp_path):
    index = build(write_jsonl(tmp_path / "a.jsonl", make_rows()), tmp_path)
    assert index.content_fingerprint == "99a78081d6bf8b69fdb2a06e7ac94aba", (
        "stored features of all datasets would be computed again"
    )
