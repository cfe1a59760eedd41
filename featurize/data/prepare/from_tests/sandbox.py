"""Runs programs against their tests in a separate process, and reports how each one ended."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from featurize.errors import CriticError

_EXECUTION = Path(__file__).with_name("execution.py")
# The modules that tests and short programs use most; the caller adds others.
COMMON_MODULES = (
    *("bisect", "collections", "copy", "datetime", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "sys"),
    *("typing", "cmath", "decimal", "traceback"),
)


class Verdict(StrEnum):
    """The ways in which a program ends."""

    PASSED = "passed"  # reached the end of the tests
    WRONG = "wrong"  # an assert of the tests failed
    CRASHED = "crashed"  # any other exception, an exit, a signal, too much memory
    TIMED_OUT = "timed_out"  # too much CPU time, or no end


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one program."""

    cpu_seconds: float = 4.0
    wall_seconds: float = 30.0  # only for programs that sleep; CPU time ends all others
    memory_bytes: int = 512 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of one program, with the name of the exception or signal."""

    verdict: Verdict
    detail: str
    cpu_seconds: float


class Sandbox:
    """A process that runs one program at a time; use it as a context manager.

    The process is new, without the caller's threads and libraries. Each program runs in a fork of
    it, in an empty folder, without input, output, other processes or network.
    """

    def __init__(self, *, limits: Limits, modules: tuple[str, ...] = ()) -> None:
        self._limits = limits
        self._modules = sorted({*COMMON_MODULES, *modules})

    def __enter__(self) -> Self:
        if sys.platform != "linux":
            raise CriticError(
                f"programs can be run with limits on Linux only, not on {sys.platform!r}: "
                "prepare the dataset on Linux"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="critic-sandbox-")
        # NOTE: -I would make Python ignore PYTHONHASHSEED, and the order of sets would then differ
        # between runs; -s and -P with an environment of our own isolate as well.
        command = [sys.executable, "-s", "-P", str(_EXECUTION), self._folder.name, *self._modules]
        environment = {
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=self._limits.wall_seconds + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def run(self, *, program: str, tests: str, cpu_seconds: float | None = None) -> Outcome:
        """Run the program, then its tests in the same namespace, for at most `cpu_seconds`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "program": program,
            "tests": tests,
            "cpu_seconds": cpu_seconds or self._limits.cpu_seconds,
            "wall_seconds": self._limits.wall_seconds,
            "memory_bytes": self._limits.memory_bytes,
        }
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise CriticError(
                f"the process that runs programs ended with code {self._process.poll()}: "
                "see its message above"
            )
        answer = json.loads(line)
        return Outcome(
            verdict=Verdict(answer["verdict"]),
            detail=answer["detail"],
            cpu_seconds=answer["cpu_seconds"],
        )
