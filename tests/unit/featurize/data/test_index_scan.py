"""Building the index: chunks, processes, repeated ids, and several bad rows at once."""

import gzip
import json
import os
import signal
from pathlib import Path

import pyarrow.compute as pc
import pytest

from featurize.data import scan
from featurize.data.index import DatasetIndex
from featurize.data.records import RowReader
from featurize.data.scan import Chunk, scan_chunk
from featurize.errors import DataError

MISSING = "'output' is missing; every row needs the program text"


@pytest.fixture(params=[50, 1 << 20], ids=["small chunks", "one chunk"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", request.param)


def write_lines(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def row(n: int, **fields: object) -> str:
    return json.dumps({"instruction": f"Task {n % 3}", "output": f"print({n})" * n} | fields)


def build(paths, tmp_path: Path, **options) -> DatasetIndex:
    return DatasetIndex.build(paths, tmp_path / "cache", **options)


def die() -> None:
    """Do what a system without memory does to a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def refusal(paths, tmp_path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        build(paths, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("size", [19, 40, 41, 1000])
def test_the_size_of_chunks_changes_nothing(tmp_path, monkeypatch, size):
    lines = [row(n) for n in range(1, 30)]
    paths = [
        write_lines(tmp_path / "a.jsonl", *lines[:9], "", *lines[9:20]),
        write_lines(tmp_path / "b.jsonl", "", "", *lines[20:]),
    ]
    Path(paths[0]).write_text(Path(paths[0]).read_text().removesuffix("\n"))
    whole = DatasetIndex.build(paths, tmp_path / "whole").table
    monkeypatch.setattr(scan, "CHUNK_BYTES", size)
    chunked = DatasetIndex.build(paths, tmp_path / "parts").table
    assert chunked.equals(whole)
    in_first = chunked.filter(pc.equal(chunked["file"], 0))["line"].to_pylist()
    assert sorted(in_first) == [*range(1, 10), *range(11, 22)]


def test_several_processes_give_the_same_table(tmp_path, monkeypatch):
    good = write_lines(tmp_path / "a.jsonl", *(row(n) for n in range(1, 30)))
    one = DatasetIndex.build(good, tmp_path / "one", workers=1)
    monkeypatch.setattr(scan, "CHUNK_BYTES", 300)
    two = DatasetIndex.build(good, tmp_path / "two", workers=2)
    assert two.table.equals(one.table)


def test_a_killed_process_is_reported(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", *(row(n) for n in range(400)))
    monkeypatch.setattr(scan, "CHUNK_BYTES", 200)
    monkeypatch.setattr(scan, "_ignore_interrupts", die)
    with pytest.raises(ChildProcessError, match=r"was killed .* run the same command again"):
        build(path, tmp_path, workers=2)


@pytest.mark.usefixtures("chunk_bytes")
def test_bad_rows_are_counted_and_the_first_is_the_message(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1), '{"instruction": ""}', "", "[]", row(2), "{")
    error = refusal(path, tmp_path)
    assert str(error) == f"{path}:2: {MISSING} (and 2 more bad rows)"
    places = [problem.split(": ")[0] for problem in error.problems]
    assert places == [f"{path}:2", f"{path}:4", f"{path}:6"]
    assert error.total == 3
    assert len(error.kinds) == 3
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.usefixtures("chunk_bytes")
def test_of_very_many_bad_rows_twenty_are_listed_and_all_counted(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", *['{"instruction": ""}'] * 50)
    error = refusal(path, tmp_path)
    assert error.problems == [f"{path}:{line}: {MISSING}" for line in range(1, 21)]
    assert error.total == 50
    assert list(error.kinds.values()) == [50]


@pytest.mark.parametrize("depth", [900, 1000, 1020, 100_000])
def test_deeply_nested_values_are_refused_like_others(tmp_path, depth):
    deep = "[" * depth + "]" * depth
    path = write_lines(tmp_path / "a.jsonl", f'{{"instruction": "a", "output": {deep}}}')
    message = str(refusal(path, tmp_path))
    assert message.startswith((f"{path}:1: 'output' is ", f"{path}:1: not valid JSON ("))
    assert len(message) < len(path) + 260


def test_bad_rows_of_a_compressed_file_are_named_by_its_own_lines(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(f"{row(1)}\n\n{{}}\n".encode()))
    assert str(refusal(str(path), tmp_path)).startswith(f"{path}:3: 'instruction' is missing")


def test_a_truncated_file_leaves_no_copy_behind(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(row(1).encode())[:-4])
    assert str(refusal(str(path), tmp_path)).startswith(f"{path}: cannot be decompressed (")
    assert not list(tmp_path.glob("cache/*"))
    assert not list(tmp_path.glob("cache/.*"))


def test_a_repeated_task_id_is_refused_with_both_places(tmp_path):
    one = write_lines(tmp_path / "a.jsonl", row(1, task_id="x"), row(2, task_id="y"))
    more = [row(3), row(4, task_id="y"), row(5, task_id="x"), row(6, task_id="x")]
    two = write_lines(tmp_path / "b.jsonl", *more)
    error = refusal([one, two], tmp_path)
    remedy = "every row needs its own, or none"
    assert error.problems == [
        f"{two}:2: 'task_id' 'y' is taken by {one}:2; {remedy}",
        f"{two}:3: 'task_id' 'x' is taken by {one}:1; {remedy}",
        f"{two}:4: 'task_id' 'x' is taken by {one}:1; {remedy}",
    ]
    assert error.total == 3


def test_identical_rows_with_default_ids_are_numbered(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1), row(2), row(1), row(2), row(1))
    task_ids = build(path, tmp_path).table["task_id"].to_pylist()
    assert len({task_id.split("-")[0] for task_id in task_ids}) == 2
    assert sorted(task_id.partition("-")[2] for task_id in task_ids) == ["", "", "2", "2", "3"]
    assert len(set(task_ids)) == 5


def test_numbered_ids_follow_the_label_and_not_the_line(tmp_path):
    labelled = [row(1, is_correct=label) for label in (True, None, False)]
    labels = []
    for name, lines in (("a", labelled), ("b", labelled[::-1])):
        table = build(write_lines(tmp_path / f"{name}.jsonl", *lines), tmp_path).table
        rows = table.select(["task_id", "is_correct"]).to_pylist()
        labels.append({row["task_id"]: row["is_correct"] for row in rows})
    assert labels[0] == labels[1]
    assert len(labels[0]) == 3


def test_a_given_id_that_equals_a_default_one_is_refused_and_not_renamed(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1))
    default = build(path, tmp_path).table["task_id"][0].as_py()
    both = write_lines(tmp_path / "b.jsonl", row(1), row(1, task_id=default))
    assert f"'task_id' '{default}' is taken by" in str(refusal(both, tmp_path))


def test_the_table_of_a_refused_dataset_is_not_kept(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1, task_id="t"), row(2, task_id="t"))
    assert "'task_id' 't' is taken by" in str(refusal(path, tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []
    assert "'task_id' 't' is taken by" in str(refusal(path, tmp_path))


def test_null_and_the_empty_text_stay_distinct(tmp_path):
    languages = [None, "", "", None]
    lines = [row(n, metadata={"language": name}) for n, name in enumerate(languages, 1)]
    whole = build(write_lines(tmp_path / "a.jsonl", *lines), tmp_path)
    parts = [
        write_lines(tmp_path / "b.jsonl", *lines[:2]),
        write_lines(tmp_path / "c.jsonl", *lines[2:]),
    ]
    apart = build(parts, tmp_path)
    assert apart.content_fingerprint == whole.content_fingerprint
    for index in (whole, apart):
        column = index.table["language"].combine_chunks()
        column.validate(full=True)
        assert column.dictionary.to_pylist() == [""]
        assert sorted(column.to_pylist(), key=str) == ["", "", None, None]


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = Path(write_lines(tmp_path / "a.jsonl", row(1)))
    with pytest.raises(DataError, match="became shorter while it was read; start again"):
        scan_chunk(Chunk(path, 0, 0, path.stat().st_size + 10), RowReader())


def test_a_line_longer_than_any_sample_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", row(1), row(2, output="x" * 5000))
    monkeypatch.setattr(scan, "CHUNK_BYTES", 100)
    monkeypatch.setattr(scan, "_MAX_LINE_BYTES", 4000)
    with pytest.raises(DataError, match=r"a.jsonl: the line at byte \d+ is longer than 4,000"):
        build(path, tmp_path)
    monkeypatch.setattr(scan, "_MAX_LINE_BYTES", 6000)
    assert len(build(path, tmp_path)) == 2
