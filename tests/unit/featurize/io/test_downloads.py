"""Datasets by URI: the rows of the local file, downloaded once, complete, named by their URI."""

import errno
import threading
import uuid
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
from featurize.data.prepare.codecontests.problems import AS_PUBLISHED, find_splits
from featurize.data.prepare.split import SplitJob, prepare_split
from featurize.errors import DataError
from featurize.io.downloads import find_remote_files
from tests.support.datasets_by_uri import ROWS, copies, put, to_lines
from tests.support.s3_server import BUCKET, Wire


def bucket_folder() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def fetch(uri: str, cache: Path) -> Path:
    [file] = find_remote_files(uri)
    return file.fetch(cache)


def replace_get_file(monkeypatch: pytest.MonkeyPatch, get_file: Any) -> Any:
    """Replace the download of the filesystem in memory; returns the original."""
    files = type(fsspec.filesystem("memory"))
    original = files.get_file
    monkeypatch.setattr(files, "get_file", get_file)
    return original


# --- finding


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".parquet"])
def test_a_dataset_at_a_uri_has_the_rows_of_the_local_file(
    tmp_path: Path, folder: str, ending: str
) -> None:
    local = tmp_path / f"train{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), local)
    else:
        lines = to_lines(ROWS)
        local.write_bytes(zstandard.compress(lines) if ending.endswith("zst") else lines)
    uri = put(f"{folder}/train{ending}", local.read_bytes())
    remote = DatasetIndex.build(uri, tmp_path / "cache")
    same = DatasetIndex.build(str(local), tmp_path / "other")
    assert remote.content_fingerprint == same.content_fingerprint
    rows = np.arange(len(ROWS))
    assert [s.output for s in remote.read(rows)] == [s.output for s in same.read(rows)]
    assert remote.sources[0].name == uri


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_a_glob_names_its_matches_in_order_and_each_once(
    tmp_path: Path, folder: str, wire: Wire, place: str
) -> None:
    folder = folder if place == "memory" else bucket_folder()
    for number, name in enumerate(("b.jsonl", "a.jsonl", "deeper/c.jsonl", "d.txt")):
        put(f"{folder}/{name}", to_lines(ROWS[number : number + 1]))
    index = DatasetIndex.build([f"{folder}/b.jsonl", f"{folder}/*.jsonl"], tmp_path)
    assert [source.name for source in index.sources] == [f"{folder}/b.jsonl", f"{folder}/a.jsonl"]
    names = [file.name for file in find_remote_files(f"{folder}/**/*.jsonl")]
    assert names == [f"{folder}/{name}.jsonl" for name in ("a", "b", "deeper/c")]


def test_a_name_that_looks_like_a_glob_is_found(tmp_path: Path, folder: str) -> None:
    uri = put(f"{folder}/train[1].jsonl", to_lines(ROWS))
    assert fetch(uri, tmp_path).read_bytes() == to_lines(ROWS)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/none.jsonl", "is not there"),
        ("s3://nobucket/train.jsonl", "is not there"),
        ("s3://bucket/none*.jsonl", "matches no file"),
        ("memory://none/train.jsonl", "is not there"),
        ("memory://none/*.jsonl", "matches no file"),
    ],
)
def test_a_missing_file_is_named_in_one_line(wire: Wire, uri: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        find_remote_files(uri)
    assert str(caught.value).startswith(f"{uri!r} {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_refused_with_a_glob_for_it(folder: str) -> None:
    put(f"{folder}/train.jsonl", to_lines(ROWS))
    with pytest.raises(DataError, match=rf"'{folder}' is a folder; .* such as '{folder}/\*'"):
        find_remote_files(folder)


def test_an_unknown_ending_is_refused_before_any_download(tmp_path: Path, folder: str) -> None:
    put(f"{folder}/a.jsonl", to_lines(ROWS))
    put(f"{folder}/b.csv", b"a,b\n")
    with pytest.raises(DataError, match=r"b\.csv"):
        DatasetIndex.build(f"{folder}/*", tmp_path)
    assert copies(tmp_path) == []


def test_missing_credentials_are_reported_without_a_second_try(
    tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch, no_waits: list[float]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(PermissionError, match=rf"^s3://{BUCKET}/a\.jsonl: no credentials \("):
            find_remote_files(f"s3://{BUCKET}/a.jsonl")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert no_waits == []


# --- downloading


def test_a_file_is_downloaded_again_only_when_it_changed(tmp_path: Path, wire: Wire) -> None:
    uri = put(f"{bucket_folder()}/train.jsonl", to_lines(ROWS))
    copy = fetch(uri, tmp_path)
    copy.chmod(0o400)  # which a second download would not keep
    assert fetch(uri.replace("train", "t*n"), tmp_path) == copy  # a listing gives the same tag
    assert copy.stat().st_mode & 0o777 == 0o400
    put(uri, to_lines(ROWS[::-1]))  # of the same size
    assert fetch(uri, tmp_path).read_bytes() == to_lines(ROWS[::-1])
    assert copy.read_bytes() == to_lines(ROWS)  # another process may still read it


def test_an_index_is_found_again_after_its_copy_was_deleted(tmp_path: Path, folder: str) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    DatasetIndex.build(uri, tmp_path)
    [copy] = copies(tmp_path)
    copy.unlink()
    index = DatasetIndex.build(uri, tmp_path)
    assert len(list(tmp_path.glob("index-*.arrow"))) == 1
    copy.unlink()
    with pytest.raises(DataError, match=rf"{uri}: has changed"):
        index.read(np.arange(1))


def test_one_process_downloads_and_the_others_wait(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    calls: list[str] = []

    def slow(files: Any, path: str, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        threading.Event().wait(0.3)
        get_file(files, path, *args, **kwargs)

    get_file = replace_get_file(monkeypatch, slow)
    with ThreadPoolExecutor(4) as pool:  # each opens the lock file itself, like a process
        found = pool.map(lambda _: fetch(uri, tmp_path), range(4))
    assert len(set(found)) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_partial_file_is_removed_unless_another_process_may_be_writing_it(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if not has_locks:
        monkeypatch.setattr("featurize.io.files.fcntl.flock", refuse)
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    copy = fetch(uri, tmp_path)
    copy.rename(partial := copy.with_name("train.jsonl.1234abcd.partial"))
    assert fetch(uri, tmp_path) == copy
    assert copy.read_bytes() == to_lines(ROWS)
    assert partial.exists() != has_locks


def test_a_dropped_connection_is_retried(tmp_path: Path, wire: Wire, no_waits: list[float]) -> None:
    content = to_lines(ROWS * 500)
    uri = put(f"{bucket_folder()}/train.jsonl", content)
    s3fs.S3FileSystem.clear_instance_cache()  # with its open connections
    wire.cuts, wire.cut_after = 3, 300
    assert fetch(uri, tmp_path).read_bytes() == content
    assert wire.cuts == 0


def test_half_a_file_never_has_the_final_name(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, no_waits: list[float]
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))
    seen: list[list[Path]] = []

    def tear(_files: Any, _path: str, target: str, **_: Any) -> None:
        Path(target).write_bytes(to_lines(ROWS)[:50])
        seen.append([path for path in copies(tmp_path) if path.suffix == ".jsonl"])

    with monkeypatch.context() as patch:
        replace_get_file(patch, tear)
        with pytest.raises(OSError, match=rf"^{uri}: ConnectionError: received 50 of .*5 times"):
            fetch(uri, tmp_path)
    assert seen == [[]] * 5
    assert no_waits == [0.5, 1.0, 2.0, 4.0]
    assert copies(tmp_path) == []
    assert fetch(uri, tmp_path).read_bytes() == to_lines(ROWS)


def test_a_file_that_changes_during_the_download_is_refused(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"{folder}/train.jsonl", to_lines(ROWS))

    def change(files: Any, path: str, *args: Any, **kwargs: Any) -> None:
        put(uri, to_lines(ROWS[::-1]))
        get_file(files, path, *args, **kwargs)

    get_file = replace_get_file(monkeypatch, change)
    with pytest.raises(DataError, match=rf"^{uri}: changed while"):
        fetch(uri, tmp_path)
    assert copies(tmp_path) == []


# --- commands that read datasets by URI


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
