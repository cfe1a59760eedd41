"""A worker: it ends with its launcher, and reports what ends it."""

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featurize.errors import CriticError, DataError
from featurize.run.worker import MessageReporter, Relay
from tests.support.featurize_runs import is_alive
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[4]

WORKER = """
import sys, time
from featurize.run.worker import die_with
die_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""

LAUNCHER = f"""
import os, subprocess, sys
launcher = str(os.getpid() + int(sys.argv[1]))
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}, launcher], stdout=subprocess.PIPE)
print(worker.pid, worker.stdout.readline().decode(), flush=True)
worker.wait()
"""


def start_launcher(offset: int = 0) -> tuple[subprocess.Popen[str], int, bool]:
    """A launcher with one worker: the worker's process id, and whether it started."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(offset)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    worker, *words = launcher.stdout.readline().split()
    return launcher, int(worker), words == ["ready"]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's own")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_launcher(by: signal.Signals) -> None:
    launcher, worker, is_ready = start_launcher()
    assert is_ready
    assert is_alive(worker)
    launcher.send_signal(by)
    launcher.wait(10)
    wait_until(lambda: not is_alive(worker), seconds=10)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's own")
def test_a_worker_whose_launcher_has_ended_before_ends_at_once() -> None:
    launcher, _, is_ready = start_launcher(offset=1)  # its parent is another process
    assert not is_ready
    assert launcher.wait(10) == 0


class Recorder:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tokens: list[int] = []

    def planned(self, plan: object) -> None:
        raise AssertionError(plan)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, tokens: int) -> None:
        self.tokens.append(tokens)


def test_progress_notes_and_logs_reach_the_launcher_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker, recorder = MessageReporter(tmp_path), Recorder()
    with Relay(tmp_path, recorder, max_restarts=0) as relay:
        worker.note("forward: packed \u2713\nsecond line")
        worker.advance(10)
        worker.advance(20)  # too soon after the other
        worker.resumed(3)
        record = logging.LogRecord(
            "featurize.x", logging.WARNING, "f", 1, "100%% of %s", ("a",), None
        )
        worker.emit(record)
    assert recorder.notes == ["forward: packed \u2713\nsecond line"]
    assert recorder.tokens == [10]
    assert relay.num_resumed_units == 3
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("featurize.x", "100% of a")]


def test_the_first_failure_of_every_attempt_that_is_repeated_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, recorder = MessageReporter(tmp_path), Recorder()
    with Relay(tmp_path, recorder, max_restarts=1) as relay:
        worker.failed(DataError(["rows.jsonl:3: no output", "rows.jsonl:4: no output"]))
        worker.failed(CriticError("a follower's error"))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        worker.failed(KeyError("key"))
    assert len(recorder.notes) == 1
    assert "rows.jsonl:3: no output" in recorder.notes[0]
    assert [failure.attempt for failure in relay.failures] == [0, 0, 1]
    assert relay.failures[0].is_mistake
    assert "rows.jsonl:4: no output" in relay.failures[0].details
    assert not relay.failures[2].is_mistake
    assert relay.failures[2].message == "KeyError: 'key'"
    assert "KeyError" in relay.failures[2].traceback


def test_half_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    recorder = Recorder()
    path = tmp_path / "messages.jsonl"
    with Relay(tmp_path, recorder, max_restarts=0):
        path.write_text('["note", "on')
        time.sleep(0.3)
        assert recorder.notes == []
        with path.open("a") as file:
            file.write('e"]\n')
    assert recorder.notes == ["one"]
