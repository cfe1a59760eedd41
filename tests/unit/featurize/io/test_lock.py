"""One run at a time writes a store, and the lock ends with its holder."""

import errno
import fcntl
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from featurize.errors import FeatureStoreError
from featurize.io.files import LOCK_FILE, sole_writer


def hold_in_child(folder: Path) -> int:
    """Start a child that holds the lock until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with sole_writer(folder):
            os.write(writer, b"1")
            signal.pause()
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_writer_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    child = hold_in_child(tmp_path)
    try:
        with pytest.raises(FeatureStoreError) as caught, sole_writer(tmp_path, patience=0):
            pytest.fail("both are in")
    finally:
        end(child)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: another run writes")
    assert f"process {child} on {socket.gethostname()} since 2" in message
    assert len(message.splitlines()) == 1


def test_a_killed_writer_no_longer_holds_the_lock(tmp_path: Path) -> None:
    end(hold_in_child(tmp_path))
    assert (tmp_path / LOCK_FILE).exists()
    for _ in range(2):
        with sole_writer(tmp_path, patience=0), sole_writer(tmp_path / "below", patience=0):
            assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()


def test_a_writer_waits_for_one_that_is_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = hold_in_child(tmp_path)
    threading.Timer(0.3, end, [child]).start()
    start = time.monotonic()
    with caplog.at_level("INFO"), sole_writer(tmp_path, patience=20):
        assert 0.2 < time.monotonic() - start < 15
    [message] = caplog.messages
    assert f"waiting for process {child}" in message


@pytest.mark.parametrize("content", ["", "[]", '{"process": 1}'])
def test_an_unreadable_lock_file_is_still_a_lock(tmp_path: Path, content: str) -> None:
    child = hold_in_child(tmp_path)
    (tmp_path / LOCK_FILE).write_text(content)
    try:
        with (
            pytest.raises(FeatureStoreError, match="an unknown process"),
            sole_writer(tmp_path, patience=0),
        ):
            pytest.fail("both are in")
    finally:
        end(child)


def test_a_file_system_without_locks_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_writer(tmp_path) as is_locked:
        assert not is_locked
        assert "has no locks" in caplog.text
