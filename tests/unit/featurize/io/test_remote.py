"""Folders at paths and URIs behave alike; a dropped connection is retried."""

from pathlib import Path
from typing import Any

import fsspec
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from featurize.io.files import checksum
from featurize.io.remote import Folder, LocalFolder, RemoteFolder, retry, without_queries


@pytest.fixture
def remote(folder: str) -> RemoteFolder:
    return RemoteFolder(f"{folder}/train/")


def write(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def check_folder(folder: Folder, content: bytes, reference: Path) -> None:
    """Check every operation on a folder with a.json and units/1.bin of this content."""
    assert folder.sizes("units") == {"1.bin": len(content)}
    assert "a.json" in folder.sizes("")
    assert folder.sizes("nothing") == {}
    assert folder.read("units/1.bin") == content
    assert folder.read("nothing") is None
    assert folder.checksum("units/1.bin") == checksum(reference)
    folder.remove("nothing")
    folder.remove("a.json")
    assert folder.read("a.json") is None
    folder.remove("units")
    assert folder.sizes("units") == {}


def test_a_folder_at_a_uri_behaves_like_a_local_one(tmp_path: Path, remote: RemoteFolder) -> None:
    content = b"0123456789" * 1000
    for name in ("a.json", "units/1.bin"):
        remote.upload(write(tmp_path / name, content), name)
    reference = write(tmp_path / "reference", content)
    check_folder(remote, content, reference)
    check_folder(LocalFolder(tmp_path), content, reference)


def test_many_files_are_read_and_downloaded_at_once(tmp_path: Path, remote: RemoteFolder) -> None:
    names = [f"units/{number}" for number in range(130)]
    for name in names:
        remote.upload(write(tmp_path / name, name.encode()), name)
    targets = [tmp_path / "copies" / str(number) for number in range(130)]
    (tmp_path / "copies").mkdir()
    remote.download(names, targets)
    assert [target.read_bytes().decode() for target in targets] == names
    assert remote.read_start("units/7", 3) == b"uni"
    expected = {name: name.encode() for name in names}
    assert remote.read_all([*names, "units/none"]) == expected
    assert remote.read_all(["units/5"]) == {"units/5": b"units/5"}
    assert remote.read_all([]) == {}


def test_an_upload_creates_missing_folders(tmp_path: Path) -> None:
    remote = RemoteFolder(f"file://{tmp_path}/new/train")
    remote.upload(write(tmp_path / "a"), "units/a")
    assert (tmp_path / "new/train/units/a").read_bytes() == b"content"


class Flaky:
    """A filesystem whose first few calls fail."""

    def __init__(self, files: Any, failures: int) -> None:
        self.files = files
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.failures > 0:
                self.failures -= 1
                raise ConnectionResetError("cut off\nsecond line")
            return getattr(self.files, name)(*args, **kwargs)

        return call


def make_flaky(remote: RemoteFolder, failures: int) -> None:
    remote._files = Flaky(fsspec.filesystem("memory"), failures)


def test_a_dropped_connection_is_retried(
    tmp_path: Path, remote: RemoteFolder, no_waits: list[float]
) -> None:
    make_flaky(remote, 4)
    remote.upload(write(tmp_path / "a"), "a")
    assert no_waits == [0.5, 1.0, 2.0, 4.0]
    make_flaky(remote, 2)
    assert remote.read("a") == b"content"
    make_flaky(remote, 1)
    assert remote.sizes("") == {"a": 7}


def test_a_dropped_connection_is_not_taken_for_a_missing_file(
    tmp_path: Path, remote: RemoteFolder, no_waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.upload(write(tmp_path / "a"), "a")
    files, cat = remote._files, remote._files.cat
    answers = [ConnectionResetError("cut off")]

    def dropping(paths: list[str], **options: Any) -> Any:
        found = cat(paths, **options)
        return {path: answers.pop() if answers else found[path] for path in paths}

    monkeypatch.setattr(files, "cat", dropping, raising=False)
    assert remote.read_all(["a"]) == {"a": b"content"}
    assert no_waits == [0.5]
    monkeypatch.undo()
    assert remote.read_all(["a", "b"]) == {"a": b"content"}


def test_the_last_failure_is_one_line_with_the_uri(
    remote: RemoteFolder, no_waits: list[float]
) -> None:
    make_flaky(remote, 5)
    with pytest.raises(OSError, match=r"^memory://\w+/train/a: ConnectionResetError: .*5 times"):
        remote.read("a")
    assert len(no_waits) == 4


def test_a_refusal_is_not_retried(remote: RemoteFolder, no_waits: list[float]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    remote._files = type("Refusing", (), {"cat_file": staticmethod(refuse)})()
    with pytest.raises(PermissionError, match=r"memory://\w+/train/a: Access Denied"):
        remote.read("a")
    assert no_waits == []


@pytest.mark.parametrize("error", [ImportError("Install s3fs"), ValueError("unknown protocol")])
def test_a_uri_that_cannot_be_opened_is_refused_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_uri: str) -> None:
        raise error

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(OSError, match=rf"^s3://b/a: cannot be opened \({error}\).*critic\[s3\]"):
        RemoteFolder("s3://b/a")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("https://a/b.jsonl?key='secret'&b=1", "https://a/b.jsonl"),
        ("403 at 'https://a/b?secret', then", "403 at 'https://a/b', then"),
        ("url=URL('http://a?secret')", "url=URL('http://a')"),
        ("s3://bucket/part-?.jsonl", "s3://bucket/part-?.jsonl"),
    ],
)
def test_the_query_of_a_web_address_is_not_shown(message: str, shown: str) -> None:
    assert without_queries(message) == shown


def test_a_hub_that_is_switched_off_is_asked_once() -> None:
    tries = []

    def ask() -> None:
        tries.append(1)
        raise OfflineModeIsEnabled("Cannot reach the Hub")

    with pytest.raises(PermissionError, match="hf://datasets/a/b: HF_HUB_OFFLINE is set"):
        retry(ask, "hf://datasets/a/b")
    assert len(tries) == 1
