"""Runs one program after another, each in a forked child with limits, and reports how it ended.

`sandbox.py` starts it as a small process (standard library only, one thread), so that forking is
cheap and safe: `python execution.py FOLDER MODULE...`. A request is a JSON line on standard input,
its answer a JSON line on standard output.

NOTE: this protects against programs with mistakes (endless loops, memory, forks, files, exits), not
against programs written to break out.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM_FILE = "<program>"
TESTS_FILE = "<tests>"
NOBODY = 65534
# What a function under test must not do. Other limits stop much of it for users other than root;
# these hold for every user.
_REFUSED_EVENTS = (
    *("os.fork", "os.posix_spawn", "os.exec", "os.spawn", "os.system", "os.kill", "pty.spawn"),
    *("subprocess.Popen", "socket.", "ctypes.", "signal.pthread_kill", "shutil.", "os.remove"),
    *("os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
    *("os.truncate", "os.putenv", "os.unsetenv"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CPU_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)
_MAX_FILE_BYTES = 1 << 20
_MAX_OPEN_FILES = 64


class RefusedError(RuntimeError):
    """The program did something that is not allowed here."""


def main(folder: str, modules: list[str]) -> None:
    """Answer requests until standard input ends. `folder` is where the programs run."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    # Imported once here, so that the children neither wait for it nor read those files.
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()
    for line in requests:
        answers.write(json.dumps(run(json.loads(line), folder)) + "\n")
        answers.flush()


def run(request: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run program and tests in a forked child, and report how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # os._exit on every path: the child must never return into the loop of its parent.
        try:
            os.setsid()
            _child(request, folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    message, is_late = _read_message(reader, float(request["wall_seconds"]))
    os.close(reader)
    status, seconds = _reap(child, kill=is_late)
    _empty(folder)
    return {**_verdict(message, status, is_late), "cpu_seconds": round(seconds, 4)}


def _read_message(reader: int, wall_seconds: float) -> tuple[bytes, bool]:
    """Read until the child closes the pipe; also returns whether the time was up before that."""
    deadline = time.monotonic() + wall_seconds
    message = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return message, True
        piece = os.read(reader, 4096)
        if not piece:
            return message, False
        message += piece


def _reap(child: int, *, kill: bool) -> tuple[int, float]:
    """End the child's whole process group, and return its status and its CPU seconds."""
    if not kill:
        # The pipe is closed, so the child is ending; wait a moment for that. WNOWAIT leaves it a
        # zombie, so that no other process gets its id before the group is killed.
        deadline = time.monotonic() + 1.0
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, child, options) is None and time.monotonic() < deadline:
            time.sleep(0.0002)
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def _verdict(message: bytes, status: int, is_late: bool) -> dict[str, str]:
    """Decide how the child ended: it passed only if it reported the end of the tests."""
    if is_late:
        return {"verdict": "timed_out", "detail": "wall clock"}
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if ended_by in _CPU_SIGNALS:
        return {"verdict": "timed_out", "detail": "CPU time"}
    if ended_by is not None:
        return {"verdict": "crashed", "detail": signal.Signals(ended_by).name}
    if not message or os.WEXITSTATUS(status) != 0:
        return {"verdict": "crashed", "detail": "exited before the end of the tests"}
    verdict, _, detail = message.decode("utf-8", "replace").partition(" ")
    return {"verdict": verdict, "detail": detail}


def _empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        left = list(entries)
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink()


def _child(request: dict[str, Any], folder: str, writer: int) -> None:
    """Run program and tests in the child, and report how they ended."""
    os.closerange(3, writer)
    os.closerange(writer + 1, 256)
    os.chdir(folder)
    _limit(float(request["cpu_seconds"]), int(request["memory_bytes"]))
    sys.addaudithook(_refuse)
    random.seed(0)  # tests that draw inputs draw the same ones for every program and in every run
    try:
        namespace: dict[str, Any] = {"__name__": "__program__"}
        for file, source in ((PROGRAM_FILE, request["program"]), (TESTS_FILE, request["tests"])):
            exec(compile(source, file, "exec", dont_inherit=True), namespace)
        message = "passed "
    except BaseException as error:  # a program may raise anything, SystemExit too
        is_wrong = isinstance(error, AssertionError) and _last_file(error) == TESTS_FILE
        message = f"{'wrong' if is_wrong else 'crashed'} {type(error).__name__}"
    os.write(writer, message.encode("utf-8", "replace")[:512])
    os._exit(0)


def _last_file(error: BaseException) -> str | None:
    """Get the file whose line raised the error: an assert of the program itself is no test."""
    trace: TracebackType | None = error.__traceback__
    file = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return file


def _limit(cpu_seconds: float, memory_bytes: int) -> None:
    if os.geteuid() == 0:
        # Neither RLIMIT_NPROC nor the permissions of files restrict root.
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    whole = int(cpu_seconds) + 1
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # The soft limit sends SIGXCPU, which can be recognised; the hard one kills.
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    # CPU time, because clock time depends on how busy the machine is. RLIMIT_CPU counts whole
    # seconds only; it ends programs that catch the timer's signal.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(_REFUSED_EVENTS):
        raise RefusedError(event)
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and not _is_in_work_folder(path):
            raise RefusedError(f"writing {path!r}")


def _is_in_work_folder(path: object) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return False
    if path == os.devnull:
        return True
    return Path(path).resolve().parent == Path.cwd()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
