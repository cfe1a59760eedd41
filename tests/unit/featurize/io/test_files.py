"""Atomic files: what an error leaves behind, and what digests depend on."""

import errno
import hashlib
import os
import stat

import pytest

from featurize.io.files import atomic_path, checksum, digest, read_json, write_json


def test_a_file_appears_complete_and_alone(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad row"), KeyboardInterrupt()])
def test_an_error_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_on_sync_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    path, events = tmp_path / "a.json", []

    def record_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append(("folder" if is_folder else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", record_sync)
    write_json(path, {})
    assert events == [("file", False), ("folder", True)]


def test_two_writers_of_one_file_have_different_temporary_files(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first:
        with atomic_path(path) as second:
            second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_as_it_was_written_and_nan_is_refused(tmp_path):
    path, value = tmp_path / "a.json", {"é\u2028": [1, 2.5, True, None, '"\\']}
    write_json(path, value)
    for bad in (float("nan"), {"a": [float("-inf")]}):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, bad)
    assert read_json(path) == value


@pytest.mark.parametrize("content", [b"", b'{"a": ', b'{"a": "\xff"}'])
def test_damaged_json_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: .*; delete it"):
        read_json(path)


def test_a_checksum_is_blake2b_of_all_bytes(tmp_path):
    path = tmp_path / "a"
    content = bytes(range(256)) * 9000  # more than one read
    path.write_bytes(content)
    assert checksum(path) == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_digests_are_equal_only_for_equal_values():
    value = {"a": [1, 2], "b": {"x": None, "é": "y"}}
    assert digest(value) == digest({"b": {"é": "y", "x": None}, "a": (1, 2)})
    assert digest({}) == hashlib.blake2b(b"{}", digest_size=16).hexdigest()
    others = [value, {}, [], None, 1, "1", 1.5, True, [1, 2], [2, 1], [[1], 2], {"a": 1}]
    assert len({digest(other) for other in others}) == len(others)
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})
