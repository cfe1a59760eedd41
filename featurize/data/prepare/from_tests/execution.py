"""Runs one program after another, each in forked children with limits, and reports how it ended.

`sandbox.py` starts it as a small process (standard library only, one thread), so that forking is
cheap and safe. A request is a JSON line on standard input, its answer one on standard output; the
first line says that the protection holds, or what programs could do that they must not.

The program and its tests run in two children. The program's child has no way to the result: the
tests call it through pipes (`exchange.py`), and their child reports how they ended.
"""

import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from featurize.data.prepare.from_tests.children import (
    ENDED,
    limit_process,
    refuse,
    run_program,
    run_tests,
    run_together,
)
from featurize.data.prepare.from_tests.isolation import (
    IsolationError,
    drop_capabilities,
    enter_namespaces,
    landlock_version,
    restrict_files,
)
from featurize.data.prepare.from_tests.seccomp import forbid_processes, restrict_system_calls

NOBODY = 65534
_CPU_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)
_MAX_MESSAGE_BYTES = 4096
_REPORTED = ("passed", "wrong", "crashed")
_SECONDS_BETWEEN_LOOKS = 0.05  # at the size of the folder
_SECONDS_TO_LOOK_FOR_GAPS = 60.0
_NO_GAPS = "nothing"


def main(argument: str) -> None:
    """Isolate this process, then answer requests until standard input ends."""
    start = json.loads(argument)
    requests, answers = _take_pipes()

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    run = Runner(start)
    try:
        sys.path.extend(start["folders"])
        _isolate(start)
        _import(start["modules"])
        if start["is_isolated"]:
            restrict_system_calls()
            run.look_for_gaps(start["forbidden_file"])
    except IsolationError as error:
        say({"failed": str(error)})
        return
    say({})
    for line in requests:
        say(run.answer(json.loads(line)))


def _isolate(start: dict[str, Any]) -> None:
    files = {"readable": start["readable"], "devices": start["devices"]}
    folder = start["folder"]
    if start["has_namespaces"]:
        enter_namespaces(**files, writable=folder, size=start["bytes"], user=NOBODY)
    elif os.geteuid() == 0:
        _give_to_nobody(folder)
    if start["is_isolated"] and (start["needs_landlock"] or landlock_version()):
        restrict_files(**files, writable=folder)


def _give_to_nobody(folder: str) -> None:
    """Let programs run as nobody; without capabilities where a container has no such user."""
    try:
        os.chown(folder, NOBODY, NOBODY)
    except OSError:
        drop_capabilities()


def _take_pipes() -> tuple[Any, Any]:
    """Keep standard input and output for requests and answers; all others get nothing."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    return requests, answers


def _import(modules: list[str]) -> None:
    """Import modules once, so that the children neither wait for it nor read those files."""
    for module in modules:
        # A module may fail in any way, or exit: then the program that imports it does so as well.
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(module)
    gc.freeze()


class Runner:
    """Runs programs, each with its tests, and decides how they ended."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._seed = start["seed"]
        self._folder = start["folder"]
        self._folder_bytes = start["bytes"]
        self._is_isolated = start["is_isolated"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run program and tests, and report how they ended."""
        children, reader = self._start(request)
        message, limit = self._read_message(reader, request["wall_seconds"])
        os.close(reader)
        # A program that has reported, or may not go on, gets no time to end by itself.
        is_ending = limit is None and (message == ENDED or len(children) == 1)
        if not is_ending:
            for child in children:  # both at once
                os.kill(child, signal.SIGKILL)
        ends = [_reap(child, kill=not is_ending) for child in children]
        self._empty()
        seconds = sum(seconds for _, seconds in ends)
        verdict = _verdict(message, [status for status, _ in ends], limit)
        return {**verdict, "cpu_seconds": round(seconds, 4)}

    def _start(self, request: dict[str, Any]) -> tuple[list[int], int]:
        """Start the children: that of the program first, then that of the tests."""
        program, tests = request["program"], request.pop("tests")
        reader, writer = os.pipe()
        program_in, tests_out = os.pipe()
        tests_in, program_out = os.pipe()
        if request["is_apart"]:
            children = [
                self._fork(request, run_program, (program, tests), (program_in, program_out)),
                self._fork(request, run_tests, (tests,), (tests_in, tests_out, writer)),
            ]
        else:
            children = [self._fork(request, run_together, (program, tests), (writer,))]
        for descriptor in (writer, program_in, tests_out, tests_in, program_out):
            os.close(descriptor)
        return children, reader

    def _fork(
        self,
        limits: dict[str, Any],
        act: Callable[..., None],
        arguments: tuple[str, ...],
        descriptors: tuple[int, ...],
    ) -> int:
        child = os.fork()
        if child == 0:
            # os._exit on every path: the child must never return into the loop of its parent.
            try:
                self._confine(limits, descriptors)
                sys.addaudithook(refuse)
                random.seed(self._seed)  # tests that draw inputs draw the same ones in every run
                act(*arguments, *descriptors)
            finally:
                os._exit(1)
        return child

    def _confine(self, limits: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        os.setsid()
        for low, high in itertools.pairwise([2, *sorted(descriptors), 256]):
            os.closerange(low + 1, high)
        os.chdir(self._folder)
        limit_process(limits["cpu_seconds"], limits["memory_bytes"])
        if self._is_isolated:
            forbid_processes()

    def _read_message(self, reader: int, wall_seconds: float) -> tuple[bytes, str | None]:
        """Read until the tests' child closes the pipe; also returns the limit that was passed."""
        deadline = time.monotonic() + wall_seconds
        message = b""
        while len(message) < _MAX_MESSAGE_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                return message, "wall clock"
            ready, _, _ = select.select([reader], [], [], min(left, _SECONDS_BETWEEN_LOOKS))
            if not ready:
                if self._bytes_written() > self._folder_bytes:
                    return message, "files"
                continue
            piece = os.read(reader, _MAX_MESSAGE_BYTES)
            if not piece:
                break
            message += piece
        return message, None

    def _bytes_written(self) -> int:
        with os.scandir(self._folder) as entries:
            return sum(
                4096 + entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries
            )

    def _empty(self) -> None:
        for path in list(Path(self._folder).iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    def look_for_gaps(self, forbidden_file: str) -> None:
        """Try what programs must not do.

        Raises:
            IsolationError: some of it is possible, or nothing can be tried.
        """
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self._confine({"cpu_seconds": 4.0, "memory_bytes": 1 << 30}, (writer,))
                possible = [name for name, act in _attempts(forbidden_file) if _is_possible(act)]
                os.write(writer, (", ".join(possible) or _NO_GAPS).encode())
            except IsolationError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(1)
        os.close(writer)
        message, _ = self._read_message(reader, _SECONDS_TO_LOOK_FOR_GAPS)
        os.close(reader)
        _reap(child, kill=True)
        if message.decode() != _NO_GAPS:
            raise IsolationError(message.decode() or "the child that tries it has ended")


def _attempts(forbidden_file: str) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "sockets", socket.socket
    yield "signals to other processes", functools.partial(os.kill, os.getppid(), 0)
    yield "new processes", lambda: os.fork() or os._exit(0)
    yield "reading other files", functools.partial(os.open, forbidden_file, os.O_RDONLY)
    yield "writing other files", functools.partial(os.open, forbidden_file, os.O_WRONLY)


def _is_possible(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _reap(child: int, *, kill: bool) -> tuple[int, float]:
    """End the child's whole process group, and return its status and its CPU seconds."""
    if not kill:
        # The child is ending; wait a moment for that. WNOWAIT leaves it a zombie, so that no other
        # process gets its id before the group is killed.
        deadline = time.monotonic() + 1.0
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, child, options) is None and time.monotonic() < deadline:
            time.sleep(0.0002)
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def _verdict(message: bytes, statuses: list[int], limit: str | None) -> dict[str, str]:
    """Decide how it ended: the program passed only if the tests' child reported their end."""
    if limit == "wall clock":
        return {"verdict": "timed_out", "detail": limit}
    if limit is not None:
        return {"verdict": "crashed", "detail": f"too many bytes in {limit}"}
    # The signal that ended the tests' child, or that ended the program's child before the tests.
    deciding = statuses if message in (b"", ENDED) else []
    signals = [os.WTERMSIG(status) for status in deciding if os.WIFSIGNALED(status)]
    if any(ended_by in _CPU_SIGNALS for ended_by in signals):
        return {"verdict": "timed_out", "detail": "CPU time"}
    if signals:
        return {"verdict": "crashed", "detail": signal.Signals(signals[0]).name}
    if message in (b"", ENDED):
        return {"verdict": "crashed", "detail": "exited before the end of the tests"}
    verdict, _, detail = message.decode("utf-8", "replace").partition(" ")
    if verdict not in _REPORTED:
        return {"verdict": "crashed", "detail": "wrote its own report"}
    return {"verdict": verdict, "detail": detail}
