"""Building the index: chunks, processes, repeated ids, and several bad rows at once."""

import gzip
import json
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurize.data import arrays, columns, notes, plain, records, scan
from featurize.data.arrays import dictionary_array, empty_column
from featurize.data.index import DatasetIndex
from featurize.data.records import DataError
from featurize.data.scan import Chunk, scan_chunk, scan_files

MISSING = "'output' is missing; every row needs the program text"


def write_lines(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def row(n: int, **fields: object) -> str:
    return json.dumps({"instruction": f"Task {n % 3}", "output": f"print({n})" * n} | fields)


def build(paths, tmp_path: Path, **options) -> DatasetIndex:
    return DatasetIndex.build(paths, tmp_path / "cache", **options)


def die() -> None:
    """What a system without memory does to a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def refusal(paths, tmp_path: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        build(paths, tmp_path, **options)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("chunk_bytes", [19, 40, 41, 1000])
def test_the_size_of_chunks_changes_nothing(tmp_path, chunk_bytes):
    lines = [row(n) for n in range(1, 30)]
    paths = [
        write_lines(tmp_path / "a.jsonl", *lines[:9], "", *lines[9:20]),
        write_lines(tmp_path / "b.jsonl", "", "", *lines[20:]),
    ]
    Path(paths[0]).write_text(Path(paths[0]).read_text().removesuffix("\n"))
    whole = DatasetIndex.build(paths, tmp_path / "whole").table
    chunked = DatasetIndex.build(paths, tmp_path / "parts", chunk_bytes=chunk_bytes).table
    assert chunked.equals(whole)
    in_first = chunked.filter(pc.equal(chunked["file"], 0))["line"].to_pylist()
    assert sorted(in_first) == [*range(1, 10), *range(11, 22)]


def test_several_processes_give_the_same_table(tmp_path):
    good = write_lines(tmp_path / "a.jsonl", *(row(n) for n in range(1, 30)))
    one = DatasetIndex.build(good, tmp_path / "one", workers=1)
    two = DatasetIndex.build(good, tmp_path / "two", workers=2, chunk_bytes=300)
    assert two.table.equals(one.table)


def test_chunks_come_in_the_order_of_the_files_and_hold_every_line_once(tmp_path):
    paths = [Path(write_lines(tmp_path / f"{name}.jsonl", *map(row, range(1, 8)))) for name in "ba"]
    chunks = list(scan_files(paths, workers=1, chunk_bytes=64))
    assert len(chunks) > 4
    assert [chunk.file for chunk in chunks] == sorted(chunk.file for chunk in chunks)
    assert sum(chunk.num_lines for chunk in chunks) == 14


@pytest.mark.parametrize("chunk_bytes", [50, 1 << 20])
def test_bad_rows_are_counted_and_the_first_is_the_message(tmp_path, chunk_bytes):
    path = write_lines(tmp_path / "a.jsonl", row(1), '{"instruction": ""}', "", "[]", row(2), "{")
    error = refusal(path, tmp_path, chunk_bytes=chunk_bytes)
    assert str(error) == f"{path}:2: {MISSING} (and 2 more bad rows)"
    assert [problem.split(": ")[0] for problem in error.problems] == [
        f"{path}:2",
        f"{path}:4",
        f"{path}:6",
    ]
    assert error.total == 3


@pytest.mark.parametrize("chunk_bytes", [50, 1 << 20])
def test_of_very_many_bad_rows_twenty_are_listed_and_all_counted(tmp_path, chunk_bytes):
    path = write_lines(tmp_path / "a.jsonl", *['{"instruction": ""}'] * 50)
    error = refusal(path, tmp_path, chunk_bytes=chunk_bytes)
    assert error.problems == [f"{path}:{line}: {MISSING}" for line in range(1, 21)]
    assert error.total == 50
    assert str(error).endswith("(and 49 more bad rows)")


@pytest.mark.parametrize("depth", [900, 1000, 1020, 100_000])
def test_deeply_nested_values_are_refused_like_others(tmp_path, depth):
    deep = "[" * depth + "]" * depth
    path = write_lines(tmp_path / "a.jsonl", f'{{"instruction": "a", "output": {deep}}}')
    message = str(refusal(path, tmp_path))
    assert message.startswith((f"{path}:1: 'output' is ", f"{path}:1: not valid JSON ("))
    assert len(message) < len(path) + 260


def test_a_refused_dataset_leaves_nothing_in_the_cache(tmp_path):
    refusal(write_lines(tmp_path / "a.jsonl", "{}"), tmp_path)
    assert not list(tmp_path.glob("cache/*"))


def test_a_dataset_without_rows_is_refused(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", "", " ")
    assert str(refusal(path, tmp_path)) == (
        f"{path}: holds no rows; the dataset needs at least one"
    )


def test_bad_rows_of_a_compressed_file_are_named_by_its_own_lines(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(f"{row(1)}\n\n{{}}\n".encode()))
    assert str(refusal(str(path), tmp_path)).startswith(f"{path}:3: 'instruction' is missing")


def test_a_file_cut_off_leaves_no_copy_behind(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(row(1).encode())[:-4])
    assert str(refusal(str(path), tmp_path)).startswith(f"{path}: cannot be decompressed (")
    assert not list(tmp_path.glob("cache/*"))
    assert not list(tmp_path.glob("cache/.*"))


def test_a_repeated_task_id_is_refused_with_both_places(tmp_path):
    one = write_lines(tmp_path / "a.jsonl", row(1, task_id="x"), row(2, task_id="y"))
    two = write_lines(tmp_path / "b.jsonl", row(3), row(4, task_id="y"), row(5, task_id="x"))
    error = refusal([one, two], tmp_path)
    remedy = "every row needs its own, or none"
    assert error.problems == [
        f"{two}:2: 'task_id' 'y' is taken by {one}:2; {remedy}",
        f"{two}:3: 'task_id' 'x' is taken by {one}:1; {remedy}",
    ]
    assert str(error) == error.problems[0] + " (and 1 more bad row)"


def test_a_task_id_used_three_times_is_counted_twice(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", *(row(n, task_id="x") for n in (1, 2, 3)))
    error = refusal(path, tmp_path)
    assert [problem.split(" is taken by ") for problem in error.problems] == [
        [f"{path}:{line}: 'task_id' 'x'", f"{path}:1; every row needs its own, or none"]
        for line in (2, 3)
    ]


def test_identical_rows_with_default_ids_are_numbered(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1), row(2), row(1), row(2), row(1))
    task_ids = build(path, tmp_path).table["task_id"].to_pylist()
    bases = [task_id.split("-")[0] for task_id in task_ids]
    assert len(set(bases)) == 2
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


def test_nothing_and_the_empty_text_are_told_apart_wherever_they_stand(tmp_path):
    languages = [None, "", "", None]
    lines = [row(n, metadata={"language": name}) for n, name in enumerate(languages, 1)]
    whole = build(write_lines(tmp_path / "a.jsonl", *lines), tmp_path)
    parts = [
        write_lines(tmp_path / "b.jsonl", *lines[:2]),
        write_lines(tmp_path / "c.jsonl", *lines[2:]),
    ]
    apart = DatasetIndex.build(parts, tmp_path)
    assert apart.content_fingerprint == whole.content_fingerprint
    for index in (whole, apart):
        column = index.table["language"].combine_chunks()
        column.validate(full=True)
        assert column.dictionary.to_pylist() == [""]
        assert sorted(column.to_pylist(), key=str) == ["", "", None, None]


@pytest.mark.parametrize("languages", [[], [None], [None, None], ["", None], ["a", None, "", "a"]])
def test_a_column_of_few_texts_is_what_was_put_in(languages):
    rows = np.arange(len(languages)).repeat(2)
    array = dictionary_array(languages, rows)
    array.validate(full=True)
    assert array.to_pylist() == [languages[row] for row in rows]
    texts = set(languages) - {None}
    assert sorted(array.dictionary.to_pylist()) == sorted(texts)
    assert pa.concat_arrays([array, array]).to_pylist() == array.to_pylist() * 2


def test_a_given_id_that_equals_a_default_one_is_refused_and_not_renamed(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", row(1))
    default = build(path, tmp_path).table["task_id"][0].as_py()
    both = write_lines(tmp_path / "b.jsonl", row(1), row(1, task_id=default))
    assert f"'task_id' '{default}' is taken by" in str(refusal(both, tmp_path))


def mixed_lines() -> list[str]:
    """Plain rows with odd and bad ones between them."""
    preference = '{"prompt": "p", "chosen": "a", "rejected": "b"}'
    lines = [row(n, task_id=n) for n in range(1, 25)]
    lines[5:5] = [preference, "", '{"instruction": "x"}', '{"instruction": "a",}', "[", preference]
    return lines


@pytest.mark.parametrize("block_bytes", [1, 100, 400, 1 << 20])
def test_rows_read_many_at_a_time_are_those_read_one_by_one(tmp_path, monkeypatch, block_bytes):
    path = Path(write_lines(tmp_path / "a.jsonl", *mixed_lines()))
    chunk = Chunk(path=path, file=0, start=0, end=path.stat().st_size)
    monkeypatch.setattr(scan, "_BLOCK_BYTES", block_bytes)
    both = scan_chunk(chunk)
    monkeypatch.setattr(scan, "_try_plain", lambda *_: None)
    one_by_one = scan_chunk(chunk)
    assert both.samples.equals(one_by_one.samples)
    assert both.samples.num_rows == 28
    assert (both.num_lines, both.faults, both.kinds) == (30, one_by_one.faults, one_by_one.kinds)
    assert [fault.line for fault in both.faults] == [8, 9, 10]


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = Path(write_lines(tmp_path / "a.jsonl", row(1)))
    chunk = Chunk(path=path, file=0, start=0, end=path.stat().st_size + 10)
    with pytest.raises(DataError, match="became shorter while it was read; start again"):
        scan_chunk(chunk)


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
def test_a_line_longer_than_any_sample_is_refused_before_it_fills_the_memory(
    tmp_path, monkeypatch, chunk_bytes
):
    path = Path(write_lines(tmp_path / "a.jsonl", row(1, output="x" * 5000)))
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 16)
    monkeypatch.setattr(scan, "_LINE_BYTES", 1000)
    with pytest.raises(DataError, match=r"a.jsonl: the line at byte \d+ is longer than 1,000"):
        list(scan_files([path], workers=1, chunk_bytes=chunk_bytes))
    monkeypatch.setattr(scan, "_LINE_BYTES", 10000)
    [chunk, *_] = scan_files([path], workers=1, chunk_bytes=chunk_bytes)
    assert chunk.num_lines == 1


def test_nothing_is_left_of_what_processes_hand_over(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    lines = [row(n) for n in range(40)]
    path = Path(write_lines(tmp_path / "a.jsonl", *lines))
    one, two = (list(scan_files([path], workers=n, chunk_bytes=200)) for n in (1, 2))
    assert [chunk.samples for chunk in two] == [chunk.samples for chunk in one]
    assert [chunk.num_lines for chunk in two] == [chunk.num_lines for chunk in one]
    assert list(folder.iterdir()) == []
    chunks = scan_files([path], workers=2, chunk_bytes=200)
    next(chunks)
    assert list(folder.iterdir()) != []
    chunks.close()
    assert list(folder.iterdir()) == []


def test_a_process_that_is_killed_is_told_of(tmp_path, monkeypatch):
    path = Path(write_lines(tmp_path / "a.jsonl", *(row(n) for n in range(400))))
    monkeypatch.setattr(scan, "_leave_interrupts", die)
    with pytest.raises(ChildProcessError, match="that reads the dataset was killed"):
        list(scan_files([path], workers=2, chunk_bytes=200))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_told_with_the_file_that_is_handed_over(tmp_path):
    path = Path(write_lines(tmp_path / "a.jsonl", row(1)))
    chunk = Chunk(path=path, file=0, start=0, end=path.stat().st_size)
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        scan._scan_apart(chunk, Path("/dev/full"))


def test_ids_that_no_table_can_hold_are_refused(monkeypatch):
    column = empty_column(pa.string())
    column.extend([b"one", b"two"])
    monkeypatch.setattr(arrays, "_MOST_BYTES", 6)
    assert column.to_array().to_pylist() == ["one", "two"]
    monkeypatch.setattr(arrays, "_MOST_BYTES", 5)
    with pytest.raises(DataError, match="6 bytes of ids in one part of a file"):
        column.to_array()


def patch_hash(monkeypatch: pytest.MonkeyPatch, name: str, hash_all) -> None:
    for module in (plain, notes, columns, records):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, hash_all)


def test_ids_with_equal_checks_are_still_told_apart(tmp_path, monkeypatch):
    patch_hash(monkeypatch, "task_id_checks", lambda ids: [7 for _ in ids])
    path = write_lines(tmp_path / "a.jsonl", row(1), row(1), *(row(n, task_id=n) for n in (2, 3)))
    assert len(build(path, tmp_path)) == 4
    again = write_lines(tmp_path / "b.jsonl", row(1), *(row(n, task_id="x") for n in (2, 3)))
    assert f"{again}:3: 'task_id' 'x' is taken by {again}:2" in str(refusal(again, tmp_path))


def test_rows_whose_keys_begin_alike_are_sorted_by_the_whole_keys(tmp_path, monkeypatch):
    def hash_all(outputs):
        return [bytes(12) + bytes([255 - len(output) % 7]) + bytes(3) for output in outputs]

    patch_hash(monkeypatch, "output_keys", hash_all)
    rows = [row(n, task_id=f"t{n}", is_correct=n % 2 == 0) for n in range(1, 40)]
    table = build(write_lines(tmp_path / "a.jsonl", *rows), tmp_path).table
    names = ("prompt_key", "output_key", "task_id")
    keys = [tuple(row[name] for name in names) for row in table.select(names).to_pylist()]
    assert keys == sorted(keys)
    assert len({key[1] for key in keys}) == 7
