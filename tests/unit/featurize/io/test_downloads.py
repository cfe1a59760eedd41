"""Datasets by URI: the rows of the local file, fetched once, never torn, with the URI's name."""

import errno
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import zstandard

from featurize.data.index import DatasetIndex
from featurize.data.prepare.codecontests.files import AS_PUBLISHED, find_splits
from featurize.data.prepare.split import SplitJob, prepare_split
from featurize.errors import DataError
from featurize.io.downloads import RemoteFile, find_remote_files
from tests.support.datasets_by_uri import ROWS, copies, put, to_lines, without_waits
from tests.support.s3_server import BUCKET, Wire, s3_server


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with s3_server() as wire:
        yield wire


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited."""
    return without_waits(monkeypatch)


@pytest.fixture
def folder() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def memory() -> Any:
    return fsspec.filesystem("memory")


def outputs(index: DatasetIndex) -> list[tuple[str, str]]:
    samples = index.read(np.arange(len(index)))
    return [(sample.instruction, sample.output) for sample in samples]


@pytest.mark.parametrize("place", ["memory", "s3"])
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".parquet"])
def test_a_dataset_at_a_uri_is_that_of_a_file(
    tmp_path: Path, folder: str, wire: Wire, place: str, ending: str
) -> None:
    local = tmp_path / f"train{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), local)
    else:
        lines = to_lines(ROWS)
        local.write_bytes(zstandard.compress(lines) if ending.endswith("zst") else lines)
    folder = folder if place == "memory" else f"s3://{BUCKET}/{uuid.uuid4().hex}"
    uri = put(f"{folder}/train{ending}", local.read_bytes())
    remote = DatasetIndex.build(uri, tmp_path / "cache")
    same = DatasetIndex.build(str(local), tmp_path / "other")
    assert remote.content_fingerprint == same.content_fingerprint
    assert outputs(remote) == outputs(same)
    assert remote.read([0])[0].location.startswith(f"{uri}:")
    assert remote.sources[0].name == uri


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_a_glob_names_its_matches_in_order_and_each_once(
    tmp_path: Path, folder: str, wire: Wire, place: str
) -> None:
    folder = folder if place == "memory" else f"s3://{BUCKET}/{uuid.uuid4().hex}"
    for number, name in enumerate(("b.jsonl", "a.jsonl", "deeper/c.jsonl", "d.txt")):
        put(f"{folder}/{name}", to_lines(ROWS[number : number + 1]))
    paths = [f"{folder}/b.jsonl", f"{folder}/*.jsonl"]
    index = DatasetIndex.build(paths, tmp_path)
    assert [source.name for source in index.sources] == [f"{folder}/b.jsonl", f"{folder}/a.jsonl"]
    assert len(copies(tmp_path)) == 2
    names = [file.name for file in find_remote_files(f"{folder}/**/*.jsonl")]
    assert names == [f"{folder}/{name}.jsonl" for name in ("a", "b", "deeper/c")]


def test_a_name_that_looks_like_a_glob_is_found(tmp_path: Path, folder: str) -> None:
    uri = put(f"{folder}/train[1].jsonl", to_lines(ROWS))
    assert len(DatasetIndex.build(uri, tmp_path)) == len(ROWS)


def test_a_bad_row_is_told_of_with_the_uri_and_its_line(tmp_path: Path, folder: str) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS[:2]) + b'{"instruction": "a"}\n')
    with pytest.raises(DataError, match=rf"^{uri}:3: 'output' is missing"):
        DatasetIndex.build(uri, tmp_path)


def test_what_was_fetched_is_not_fetched_again_and_a_changed_object_is(
    tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"s3://{BUCKET}/{uuid.uuid4().hex}/train.jsonl", to_lines(ROWS))
    fetched: list[str] = []
    download = RemoteFile._download

    def count(file: RemoteFile, copy: Path) -> None:
        fetched.append(file.name)
        download(file, copy)

    monkeypatch.setattr(RemoteFile, "_download", count)
    first = DatasetIndex.build(uri, tmp_path)
    again = DatasetIndex.build(uri.replace("train", "t*n"), tmp_path)  # a listing tells the same
    assert len(fetched) == 1
    assert again.sources == first.sources
    put(uri, to_lines(ROWS[::-1]))  # of the same size
    changed = DatasetIndex.build(uri, tmp_path)
    assert len(fetched) == 2
    assert changed.sources[0].path != first.sources[0].path
    assert changed.content_fingerprint == first.content_fingerprint  # rows in another order
    assert outputs(first) == outputs(changed)  # the old copy is still read


def test_an_index_is_found_again_when_its_copy_was_deleted(tmp_path: Path, folder: str) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    DatasetIndex.build(uri, tmp_path)
    [copy] = copies(tmp_path)
    copy.unlink()
    index = DatasetIndex.build(uri, tmp_path)
    assert len(list(tmp_path.glob("index-*.arrow"))) == 1
    copies(tmp_path)[0].unlink()
    with pytest.raises(DataError, match=rf"{uri}: has changed since it was indexed"):
        index.read(np.arange(1))


def test_one_process_fetches_and_the_others_wait(
    tmp_path: Path, folder: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    calls: list[str] = []
    is_held = threading.Event()
    get_file = type(memory).get_file

    def slow(files: Any, path: str, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        is_held.wait(0.3)
        get_file(files, path, *args, **kwargs)

    monkeypatch.setattr(type(memory), "get_file", slow)
    with ThreadPoolExecutor(4) as pool:  # a lock of a file each, as processes have
        found = pool.map(lambda _: find_remote_files(uri)[0].fetch(tmp_path), range(4))
    assert len(set(found)) == 1
    assert len(calls) == 1


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path, folder: str) -> None:
    file = find_remote_files(put(f"{folder}/train.jsonl", to_lines(ROWS)))[0]
    copy = file.fetch(tmp_path)
    copy.rename(leftover := copy.with_name("train.jsonl.1234abcd.partial"))
    assert file.fetch(tmp_path) == copy
    assert copy.read_bytes() == to_lines(ROWS)
    assert not leftover.exists()


def test_without_locks_nobody_removes_what_another_may_be_writing(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("featurize.io.downloads.fcntl.flock", refuse)
    file = find_remote_files(put(f"{folder}/train.jsonl", to_lines(ROWS)))[0]
    copy = file.fetch(tmp_path)
    copy.rename(unfinished := copy.with_name("train.jsonl.1234abcd.partial"))
    assert file.fetch(tmp_path) == copy
    assert unfinished.exists()


def test_a_dropped_connection_is_tried_again(
    tmp_path: Path, wire: Wire, no_waits: list[float]
) -> None:
    rows = [row | {"output": f"{number} " + "x" * 500} for number, row in enumerate(ROWS * 50)]
    uri = put(f"s3://{BUCKET}/{uuid.uuid4().hex}/train.jsonl", to_lines(rows))
    s3fs.S3FileSystem.clear_instance_cache()  # with its open connections
    wire.cuts, wire.cut_after = 3, 300
    assert len(DatasetIndex.build(uri, tmp_path)) == len(rows)
    assert wire.cuts == 0


def test_half_a_file_is_never_seen(
    tmp_path: Path, folder: str, memory: Any, monkeypatch: pytest.MonkeyPatch, no_waits: list[float]
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    half = to_lines(ROWS)[:50]
    seen: list[list[Path]] = []
    with monkeypatch.context() as patch:

        def tear(_files: Any, _path: str, target: str, **_: Any) -> None:
            Path(target).write_bytes(half)
            seen.append([path for path in copies(tmp_path) if path.suffix == ".jsonl"])

        patch.setattr(type(memory), "get_file", tear)
        with pytest.raises(OSError, match=rf"^{uri}: ConnectionError: 50 bytes .*5 times"):
            DatasetIndex.build(uri, tmp_path)
    assert seen == [[]] * 5
    assert no_waits == [0.5, 1.0, 2.0, 4.0]
    assert copies(tmp_path) == []
    assert len(DatasetIndex.build(uri, tmp_path)) == len(ROWS)


def test_an_object_that_changes_while_it_is_fetched_is_refused(
    tmp_path: Path, folder: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    get_file = type(memory).get_file

    def change(files: Any, path: str, *args: Any, **kwargs: Any) -> None:
        put(uri, to_lines(ROWS[::-1]))
        get_file(files, path, *args, **kwargs)

    monkeypatch.setattr(type(memory), "get_file", change)
    with pytest.raises(DataError, match=rf"^{uri}: changed while it was fetched; start again"):
        DatasetIndex.build(uri, tmp_path)
    assert copies(tmp_path) == []


def test_the_log_tells_what_is_fetched_and_how_much(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS) + b"\n" * 2_000_000)
    with caplog.at_level("INFO"):
        find_remote_files(uri)[0].fetch(tmp_path)
        find_remote_files(uri)[0].fetch(tmp_path)
    assert caplog.messages[0] == f"fetching {uri} (2.0 MB)"
    assert caplog.messages[1].startswith(f"fetched {uri} (2.0 MB) in ")
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/none.jsonl", "is not there; check the URI"),
        ("s3://nobucket/train.jsonl", "is not there; check the URI"),
        ("s3://bucket/none*.jsonl", "matches no file; check the URI"),
        ("memory://none/train.jsonl", "is not there; check the URI"),
        ("memory://none/*.jsonl", "matches no file; check the URI"),
    ],
)
def test_what_is_not_there_is_one_clear_line(
    wire: Wire, tmp_path: Path, uri: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        DatasetIndex.build(uri, tmp_path)
    assert str(caught.value).startswith(f"{uri!r} {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_refused_with_a_glob_for_it(tmp_path: Path, folder: str) -> None:
    put(f"{folder}/train.jsonl", to_lines(ROWS))
    with pytest.raises(DataError, match=rf"'{folder}' is a folder; .* such as '{folder}/\*'"):
        DatasetIndex.build(folder, tmp_path)


def test_an_unknown_ending_is_refused_before_anything_is_fetched(
    tmp_path: Path, folder: str
) -> None:
    put(f"{folder}/a.jsonl", to_lines(ROWS))
    put(f"{folder}/b.csv", b"a,b\n")
    with pytest.raises(DataError, match=r"b\.csv' has an unknown ending"):
        DatasetIndex.build(f"{folder}/*", tmp_path)
    assert copies(tmp_path) == []


def test_without_credentials_it_says_so_at_once(
    tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch, no_waits: list[float]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(PermissionError) as caught:
            DatasetIndex.build(f"s3://{BUCKET}/train.jsonl", tmp_path)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert str(caught.value).startswith(f"s3://{BUCKET}/train.jsonl: no credentials (")
    assert no_waits == []


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_uri: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(OSError, match=r"^s3://b/a\.jsonl: cannot be opened .*critic\[s3\]"):
        DatasetIndex.build("s3://b/a.jsonl", tmp_path)


def test_a_split_is_prepared_from_a_uri_and_not_again(tmp_path: Path, folder: str) -> None:
    rows = [{"instruction": f"{'ab'[n % 2] * 9} {n} {n * n}", "output": "x"} for n in range(20)]
    uri = put(f"{folder}/all.jsonl", to_lines(rows))
    job = SplitJob(sources=[uri], out_dir=tmp_path / "out", test=0, cache_dir=tmp_path / "cache")
    assert not prepare_split(job).was_up_to_date
    for copy in copies(tmp_path / "cache"):
        copy.unlink()
    assert prepare_split(job).was_up_to_date
    names = ("train", "valid")
    written = b"".join((tmp_path / f"out/{name}.jsonl").read_bytes() for name in names)
    assert sorted(written.splitlines()) == sorted(to_lines(rows).splitlines())


def test_published_files_are_found_at_a_uri(tmp_path: Path, folder: str) -> None:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        put(f"{folder}/data/{name}", b"parquet")
    found = find_splits(f"{folder}/data/*.parquet", AS_PUBLISHED, tmp_path)
    names = {split: [path.name for path in paths] for split, paths in found.items()}
    assert names == {
        "train": ["train-00000-of-00001.parquet"],
        "test": ["test-00000-of-00001.parquet"],
    }
