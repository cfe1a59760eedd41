"""Runs programs against their tests in a separate process, and reports how each one ended."""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from featurize.data.prepare.from_tests.isolation.kernel import IsolationError
from featurize.data.prepare.from_tests.isolation.protection import Protection, Start
from featurize.errors import CriticError

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


@functools.cache
def choose_protection(*, is_unsafe_allowed: bool = False) -> Protection:
    """Find the strongest protection that can be set up here, by trying.

    Raises:
        CriticError: there is none, and it is not allowed to go on without.
    """
    faults: list[str] = []
    for protection in (Protection.BUBBLEWRAP, Protection.NAMESPACES, Protection.LANDLOCK):
        try:
            check_protection(protection)
        except IsolationError as error:
            faults.append(f"{protection.value}: {error}")
        else:
            return protection
    if is_unsafe_allowed:
        return Protection.NONE
    raise CriticError(
        f"no protection against hostile programs can be set up here ({'; '.join(faults)}): install "
        "bubblewrap or allow user namespaces, or give --unsafe if you trust the programs"
    )


def check_protection(protection: Protection) -> None:
    """Set a protection up once.

    Raises:
        IsolationError: it cannot be set up here, or does not hold.
    """
    if protection is Protection.BUBBLEWRAP and shutil.which("bwrap") is None:
        raise IsolationError("bwrap is not installed")
    with Sandbox(limits=Limits(), protection=protection):
        pass


class Sandbox:
    """A process that runs one program at a time; use it as a context manager.

    The process is new, without the caller's threads and libraries. Each program runs in a fork of
    it, in an empty folder, without input, output, other processes or network. `protection` is what
    the kernel enforces; None: the strongest that can be set up here. `folders` are on the programs'
    `sys.path` beside Python's own. `seed` decides the order of sets and what `random` draws.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        modules: tuple[str, ...] = (),
        protection: Protection | None = None,
        folders: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        self._limits = limits
        self._folders = folders
        self._seed = seed
        self._modules = sorted({*COMMON_MODULES, *modules})
        self._protection = protection

    def __enter__(self) -> Self:
        if sys.platform != "linux":
            raise CriticError(
                f"programs can be run with limits on Linux only, not on {sys.platform!r}: "
                "prepare the dataset on Linux"
            )
        protection = self._protection or choose_protection()
        with tempfile.NamedTemporaryFile(prefix="critic-forbidden-") as forbidden:
            Path(forbidden.name).chmod(0o666)
            self._folder = tempfile.TemporaryDirectory(prefix="critic-sandbox-")
            try:
                self._start(protection, forbidden.name)
            except BaseException:
                self._folder.cleanup()
                raise
        return self

    def _start(self, protection: Protection, forbidden_file: str) -> None:
        """Start the process, and wait until it says that its protection holds."""
        start = Start(
            protection=protection,
            folder=self._folder.name,
            forbidden_file=forbidden_file,
            modules=self._modules,
            folders=self._folders,
            seed=self._seed,
        )
        environment = {
            "PYTHONHASHSEED": str(self._seed),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            start.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise IsolationError(self._last_words())
        answer = json.loads(line)
        if problem := answer.get("failed") or ", ".join(answer["possible"]):
            self._end()
            raise IsolationError(str(problem))

    def _last_words(self) -> str:
        """Get the last line of a process that has ended."""
        _, errors = self._process.communicate()
        lines = errors.strip().splitlines()
        return lines[-1] if lines else f"ended with code {self._process.returncode}"

    def __exit__(self, *error: object) -> None:
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        assert pipes[0] is not None
        pipes[0].close()
        try:
            self._process.wait(timeout=self._limits.wall_seconds + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in pipes[1:]:
            assert pipe is not None
            pipe.close()

    def run(
        self,
        *,
        program: str,
        tests: str,
        cpu_seconds: float | None = None,
        is_apart: bool = True,
    ) -> Outcome:
        """Run the program, then its tests, each for at most `cpu_seconds`.

        `is_apart`: the tests run in a process of their own, whose result no program can forge.
        Otherwise both share a namespace, which tests need that pass objects of their own classes.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "program": program,
            "tests": tests,
            "cpu_seconds": cpu_seconds or self._limits.cpu_seconds,
            "wall_seconds": self._limits.wall_seconds,
            "memory_bytes": self._limits.memory_bytes,
            "is_apart": is_apart,
        }
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise CriticError(
                f"the process that runs programs ended ({self._last_words()}): is the machine out "
                "of memory? Run the command again"
            )
        answer = json.loads(line)
        return Outcome(
            verdict=Verdict(answer["verdict"]),
            detail=answer["detail"],
            cpu_seconds=answer["cpu_seconds"],
        )
