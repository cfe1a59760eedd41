"""One worker of a featurize job: `python -m featurize.run.worker JOB`.

The job file says what to do; rank and world size come from torch elastic, which starts the workers.
A worker reports by lines of JSON that it appends to a file: that needs no connection, and what a
worker said before it was killed is still there.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featurize.errors import CriticError, one_line
from featurize.io.files import read_json
from featurize.io.interrupts import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    keep_interrupts,
    raises_when_terminated,
)

if TYPE_CHECKING:
    from featurize.run.job import Reporter
    from featurize.run.plan import FeaturizePlan

MISTAKE, FAULT = 2, 1
"""Exit codes: the input is wrong, the program is wrong."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FILE = "messages.jsonl"
_POLL_SECONDS = 0.1
_ADVANCE_SECONDS = 0.2


def main(path: Path) -> int:
    """Do this worker's share of the job in a file; returns the exit code."""
    fields = read_json(path)
    die_with(fields["launcher"])  # before the imports, which take seconds
    keep_interrupts()
    reporter = MessageReporter(Path(fields["messages"]))
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(handlers=[reporter], level=logging.WARNING)
    logging.getLogger("featurize").setLevel(fields["log_level"])
    try:
        with raises_when_terminated():
            work(fields, reporter)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the last stop: whatever it is, the launcher reports it
        reporter.failed(error)
        return MISTAKE if isinstance(error, (ValueError, OSError)) else FAULT
    return 0


def work(fields: dict[str, Any], reporter: "MessageReporter") -> None:
    """Compute this rank's share of the units.

    Raises:
        CriticError: the dataset or the backbone has changed since the job was planned.
    """
    from transformers.utils.logging import disable_progress_bar

    from featurize.run.compute import compute
    from featurize.run.job import FeaturizeJob
    from featurize.run.launch import replan
    from featurize.run.ranks import Ranks

    disable_progress_bar()
    plan = replan(FeaturizeJob.from_dict(fields["job"]), fields["selection"])
    if plan.fingerprint != fields["fingerprint"]:
        raise CriticError(
            "the dataset or the backbone has changed since the run was planned; run it again"
        )
    ranks = Ranks()
    summary = compute(plan, ranks, reporter)
    if ranks.is_first:
        reporter.resumed(summary.num_resumed_units)


def die_with(launcher: int) -> None:
    """Have the kernel end this process when the one that started it ends, however it ends.

    A launcher that was killed cannot stop its workers. SIGKILL, because a process that waits in C
    runs no handler; the next run computes the unit it was writing again.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != launcher:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


# --- messages to the process that started the workers


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error that ended a worker."""

    attempt: int
    """Number of the start it was part of, 0 for the first."""
    is_mistake: bool
    """Whether the input is wrong, not the program."""
    message: str
    details: list[str]
    traceback: str


class MessageReporter(logging.Handler):
    """The worker's end: reports, and logs, by appending to the file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / _FILE
        self._next_advance = 0.0

    def planned(self, plan: "FeaturizePlan") -> None:
        """Nothing: the process that planned has shown it."""

    def note(self, text: str) -> None:
        """Send one line worth reading."""
        self._send("note", text)

    def advance(self, tokens: int) -> None:
        """Send the number of tokens computed so far, a few times a second."""
        if time.monotonic() >= self._next_advance:
            self._next_advance = time.monotonic() + _ADVANCE_SECONDS
            self._send("tokens", tokens)

    def resumed(self, num_units: int) -> None:
        """Send the number of units that were finished already."""
        self._send("resumed", num_units)

    def failed(self, error: Exception) -> None:
        """Send the error that ends this worker."""
        is_mistake = isinstance(error, (ValueError, OSError))
        line = one_line(error)
        failure = {
            "attempt": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            "is_mistake": is_mistake,
            "message": line if is_mistake else f"{type(error).__name__}: {line}",
            "details": list(getattr(error, "details", ())),
            "traceback": "".join(traceback.format_exception(error)),
        }
        self._send("failure", failure)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record, which the process that started the worker formats."""
        self._send("log", [record.name, record.levelno, record.getMessage()])

    def _send(self, kind: str, value: Any) -> None:
        line = json.dumps([kind, value]) + "\n"
        # One write to a file opened for appending: lines of several workers do not mix.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class Relay:
    """The other end: a thread that passes messages to a reporter while its block runs."""

    def __init__(self, folder: Path, reporter: "Reporter", max_restarts: int) -> None:
        self.failures: list[Failure] = []
        self.num_resumed_units = 0
        self._path = folder / _FILE
        self._reporter = reporter
        self._max_restarts = max_restarts
        self._num_bytes_read = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(_POLL_SECONDS):
            self._pass_on()
        self._pass_on()

    def _pass_on(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._num_bytes_read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._num_bytes_read += len(whole)
        for line in whole.splitlines():
            self._handle(*json.loads(line))

    def _handle(self, kind: str, value: Any) -> None:
        if kind == "tokens":
            self._reporter.advance(value)
        elif kind == "note":
            self._reporter.note(value)
        elif kind == "resumed":
            self.num_resumed_units = value
        elif kind == "log":
            name, level, message = value
            logging.getLogger(name).log(level, "%s", message)
        else:
            self._handle_failure(Failure(**value))

    def _handle_failure(self, failure: Failure) -> None:
        is_first = all(failure.attempt != other.attempt for other in self.failures)
        self.failures.append(failure)
        if is_first and failure.attempt < self._max_restarts:
            self._reporter.note(f"a worker failed: {failure.message}; all workers start again")


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
