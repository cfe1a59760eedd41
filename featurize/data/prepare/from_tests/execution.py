"""Runs one program after another, each in forked children with limits, and reports how it ended.

`sandbox.py` starts it as a small process (standard library only, one thread), so that forking is
cheap and safe. A request is a JSON line on standard input, its answer one on standard output; the
first line says which of the things that programs must not do are possible after all.

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
    run_program,
    run_tests,
    run_together,
)
from featurize.data.prepare.from_tests.isolation.kernel import IsolationError, drop_capabilities
from featurize.data.prepare.from_tests.isolation.landlock import landlock_version, restrict_files
from featurize.data.prepare.from_tests.isolation.namespaces import enter_namespaces
from featurize.data.prepare.from_tests.isolation.seccomp import (
    forbid_processes,
    restrict_system_calls,
)
from featurize.data.prepare.from_tests.limits import limit_process, refuse

NOBODY = 65534
_CPU_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)
_MAX_MESSAGE_BYTES = 4096
_REPORTED = ("passed", "wrong", "crashed")
_SECONDS_BETWEEN_LOOKS = 0.05  # at the size of the folder


def main(argument: str) -> None:
    """Isolate this process, then answer requests until standard input ends."""
    start = json.loads(argument)
    folder = start["folder"]
    requests, answers = _take_pipes()
    try:
        sys.path.extend(start["folders"])
        _isolate(start)
        _import(start["modules"])
        if start["is_isolated"]:
            restrict_system_calls()
        run = Runner(
            folder=folder,
            folder_bytes=start["bytes"],
            is_isolated=start["is_isolated"],
            seed=start["seed"],
        )
        possible = run.look_for_gaps(start["forbidden_file"]) if start["is_isolated"] else []
        ready: dict[str, Any] = {"possible": possible}
    except IsolationError as error:
        ready = {"failed": str(error)}
    answers.write(json.dumps(ready) + "\n")
    answers.flush()
    if "failed" in ready:
        return
    for line in requests:
        answers.write(json.dumps(run.answer(json.loads(line))) + "\n")
        answers.flush()


def _isolate(start: dict[str, Any]) -> None:
    files = {name: start[name] for name in ("readable", "devices")}
    folder = start["folder"]
    if start["has_namespaces"]:
        enter_namespaces(**files, writable=folder, size=start["bytes"], user=NOBODY)
    elif os.geteuid() == 0:
        _give_to_nobody(folder)
    if start["is_isolated"] and (start["needs_landlock"] or _has_landlock()):
        restrict_files(**files, writable=folder)


def _give_to_nobody(folder: str) -> None:
    """Let programs run as nobody; without capabilities where a container has no such user."""
    try:
        os.chown(folder, NOBODY, NOBODY)
    except OSError:
        drop_capabilities()


def _has_landlock() -> bool:
    try:
        return landlock_version() > 0
    except IsolationError:
        return False


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

    def __init__(self, *, folder: str, folder_bytes: int, is_isolated: bool, seed: int = 0) -> None:
        self._seed = seed
        self._folder = folder
        self._folder_bytes = folder_bytes
        self._is_isolated = is_isolated

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run program and tests, and report how they ended."""
        children, reader = self._start(request)
        message, limit = self._read_message(reader, float(request["wall_seconds"]))
        os.close(reader)
        # A program that has reported, or may not go on, gets no time to end by itself.
        is_ending = limit is None and (message == ENDED or len(children) == 1)
        if not is_ending:
            for child in children:  # both at once
                os.kill(child, signal.SIGKILL)
        ends = [_reap(child, kill=not is_ending) for child in children]
        self._empty()
        seconds = sum(seconds for _, seconds in ends)
        statuses = [status for status, _ in ends]
        return {**_verdict(message, statuses, limit), "cpu_seconds": round(seconds, 4)}

    def _start(self, request: dict[str, Any]) -> tuple[list[int], int]:
        """Start the children: that of the program first, then that of the tests."""
        tests = request.pop("tests")
        if not request["is_apart"]:
            reader, writer = os.pipe()
            act = functools.partial(run_together, request["program"], tests, writer)
            child = self._fork(request, act, {writer})
            os.close(writer)
            return [child], reader
        program_in, tests_out = os.pipe()
        tests_in, program_out = os.pipe()
        serve = functools.partial(run_program, request["program"], tests, program_in, program_out)
        program = self._fork(request, serve, {program_in, program_out})
        os.close(program_in)
        os.close(program_out)
        reader, writer = os.pipe()
        judge = functools.partial(run_tests, tests, tests_in, tests_out, writer)
        child = self._fork(request, judge, {tests_in, tests_out, writer})
        for descriptor in (tests_in, tests_out, writer):
            os.close(descriptor)
        return [program, child], reader

    def _fork(self, request: dict[str, Any], act: Callable[[], None], keep: set[int]) -> int:
        child = os.fork()
        if child == 0:
            # os._exit on every path: the child must never return into the loop of its parent.
            try:
                self._confine(request, keep)
                sys.addaudithook(refuse)
                random.seed(self._seed)  # tests that draw inputs draw the same ones in every run
                act()
            finally:
                os._exit(1)
        return child

    def _confine(self, request: dict[str, Any], keep: set[int]) -> None:
        os.setsid()
        edges = [2, *sorted(keep), 256]
        for low, high in itertools.pairwise(edges):
            os.closerange(low + 1, high)
        os.chdir(self._folder)
        limit_process(float(request["cpu_seconds"]), int(request["memory_bytes"]))
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
        with os.scandir(self._folder) as entries:
            left = list(entries)
        for entry in left:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink()

    def look_for_gaps(self, forbidden_file: str) -> list[str]:
        """Try what programs must not do, and list what is possible."""
        request = {"cpu_seconds": 4.0, "memory_bytes": 1 << 30}
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self._confine(request, {writer})
                possible = [name for name, act in _attempts(forbidden_file) if _is_possible(act)]
                os.write(writer, json.dumps(possible).encode())
            except IsolationError as error:
                os.write(writer, json.dumps(str(error)).encode())
            finally:
                os._exit(1)
        os.close(writer)
        message, _ = self._read_message(reader, 10.0)
        os.close(reader)
        _reap(child, kill=True)
        possible = json.loads(message or b'"the child that tries it has ended"')
        if isinstance(possible, str):
            raise IsolationError(possible)
        return list(possible)


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
