"""Runs programs against their tests in a separate process, and reports how each one ended."""

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from featurize.data.prepare.from_tests.isolation import IsolationError
from featurize.errors import CriticError

# The modules that tests and short programs use most; the caller adds others.
COMMON_MODULES = (
    *("bisect", "collections", "copy", "datetime", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "sys"),
    *("typing", "cmath", "decimal", "traceback"),
)
_PACKAGES = Path(__file__).parents[4]
_FOLDER_BYTES = 32 << 20
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from featurize.data.prepare.from_tests.execution import main; "
    "del sys.path[0]; main(sys.argv[2])"
)
# What that imports of this package, besides the standard library.
_OWN = (
    *("__init__.py", "errors.py", "data/__init__.py", "data/prepare/__init__.py"),
    "data/prepare/from_tests",
)


class Protection(StrEnum):
    """Means of isolation, the strongest first."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    LANDLOCK = "Landlock"
    NONE = "none"

    def describe(self) -> str:
        """Say in one line what the programs cannot do."""
        if self is Protection.NONE:
            return (
                "programs run WITHOUT protection (--unsafe): limits of time, memory and file size "
                "stop faulty programs, not hostile ones"
            )
        return (
            f"programs run under {self.value} and seccomp: no network, no other processes, "
            f"no files but Python's and a folder of {_FOLDER_BYTES >> 20} MB"
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
        CriticError: there is none, and running without one is not allowed.
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
                self._start(self._command(protection, forbidden.name))
            except BaseException:
                self._folder.cleanup()
                raise
        return self

    def _command(self, protection: Protection, forbidden_file: str) -> list[str]:
        """Get the command line; programs must neither read nor write the forbidden file."""
        readable = [*_readable(), *self._folders]
        start = {
            "folder": self._folder.name,
            "forbidden_file": forbidden_file,
            "modules": self._modules,
            "bytes": _FOLDER_BYTES,
            "is_isolated": protection is not Protection.NONE,
            "has_namespaces": protection is Protection.NAMESPACES,
            "needs_landlock": protection is Protection.LANDLOCK,
            "readable": readable,
            "folders": self._folders,
            "seed": self._seed,
            "devices": _DEVICES,
        }
        # NOTE: -I would make Python ignore PYTHONHASHSEED, and the order of sets would then differ
        # between runs; -s and -P with an environment of our own isolate as well.
        python = [sys.executable, "-s", "-P", "-c", _START, str(_PACKAGES), json.dumps(start)]
        if protection is Protection.BUBBLEWRAP:
            return [*_bubblewrap(self._folder.name, readable), *python]
        return python

    def _start(self, command: list[str]) -> None:
        """Start the process, and wait until it says that its protection holds."""
        environment = {
            "PYTHONHASHSEED": str(self._seed),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        answer = self._read_answer()
        if answer is None:
            raise IsolationError(self._last_words())
        if "failed" in answer:
            self._end()
            raise IsolationError(answer["failed"])

    def _read_answer(self) -> dict[str, Any] | None:
        """Read one answer of the process; None if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _last_words(self) -> str:
        """Get the last line of a process that has ended."""
        _, errors = self._process.communicate()
        lines = errors.strip().splitlines()
        return lines[-1] if lines else f"ended with code {self._process.returncode}"

    def __exit__(self, *error: object) -> None:
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        """Let the process end, which it does when its input ends, and close the pipes."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=self._limits.wall_seconds + 5)
            except subprocess.TimeoutExpired:
                process.kill()

    def run(
        self,
        *,
        program: str,
        tests: str,
        cpu_seconds: float | None = None,
        is_apart: bool = True,
    ) -> Outcome:
        """Run the program, then its tests, each for at most `cpu_seconds`.

        `is_apart`: the tests run in a separate process, whose result no program can forge.
        Otherwise both share a namespace, which tests need that pass objects of their own classes.
        """
        request = {
            "program": program,
            "tests": tests,
            "cpu_seconds": cpu_seconds or self._limits.cpu_seconds,
            "wall_seconds": self._limits.wall_seconds,
            "memory_bytes": self._limits.memory_bytes,
            "is_apart": is_apart,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._read_answer()
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise CriticError(
                f"the process that runs programs ended ({self._last_words()}): is the machine out "
                "of memory? Run the command again"
            )
        return Outcome(
            verdict=Verdict(answer["verdict"]),
            detail=answer["detail"],
            cpu_seconds=answer["cpu_seconds"],
        )


def python_folders() -> list[str]:
    """List the folders that Python itself imports from."""
    paths = sysconfig.get_paths()
    return [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def _existing(paths: Sequence[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if Path(path).exists()]


def _readable() -> list[str]:
    """List what a Python program reads: the libraries, and no more of an environment than that."""
    return _existing([*python_folders(), f"{sys.base_prefix}/lib", *_LIBRARIES, *_FILES])


def _bubblewrap(folder: str, readable: Sequence[str]) -> list[str]:
    """Get the command that starts a new Python process in namespaces of its own."""
    python = _existing([sys.executable, f"{sys.prefix}/pyvenv.cfg", f"{sys.base_prefix}/bin"])
    own = [str(_PACKAGES / "featurize" / name) for name in _OWN]
    options = ["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
    options += ["--die-with-parent", "--new-session"]
    for path in [*readable, *python, *own]:
        for place in dict.fromkeys((os.path.realpath(path), path)):
            options += ["--ro-bind", os.path.realpath(path), place]
    for path in _DEVICES:
        options += ["--dev-bind", path, path]
    options += ["--size", str(_FOLDER_BYTES), "--tmpfs", folder, "--chdir", "/"]
    return [str(shutil.which("bwrap")), *options]
