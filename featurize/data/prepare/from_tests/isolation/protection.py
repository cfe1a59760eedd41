"""Which protection the programs run under, and how a process is started under it."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_PACKAGES = Path(__file__).parents[5]
_FOLDER_BYTES = 32 << 20
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from featurize.data.prepare.from_tests.execution import main; "
    "del sys.path[0]; main(sys.argv[2])"
)
_OWN_FILES = ("__init__.py", "errors.py", "data/__init__.py", "data/prepare/__init__.py")
_OWN_FOLDER = "data/prepare/from_tests"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What starts the process that runs programs."""

    protection: Protection
    folder: str  # the folder where the programs run
    forbidden_file: str  # a file that programs must reach neither for reading nor for writing
    modules: Sequence[str]  # to import before any program runs
    folders: Sequence[str] = ()  # to import from besides Python's own; programs can read them
    seed: int = 0  # of `random`

    def command(self) -> list[str]:
        """Get the command line."""
        # NOTE: -I would make Python ignore PYTHONHASHSEED, and the order of sets would then differ
        # between runs; -s and -P with an environment of our own isolate as well.
        python = [sys.executable, "-s", "-P", "-c", _START, str(_PACKAGES), self._argument()]
        if self.protection is Protection.BUBBLEWRAP:
            return [*self._bubblewrap(), *python]
        return python

    def _argument(self) -> str:
        return json.dumps(
            {
                "folder": self.folder,
                "forbidden_file": self.forbidden_file,
                "modules": list(self.modules),
                "bytes": _FOLDER_BYTES,
                "is_isolated": self.protection is not Protection.NONE,
                "has_namespaces": self.protection is Protection.NAMESPACES,
                "needs_landlock": self.protection is Protection.LANDLOCK,
                "readable": self._readable(),
                "folders": list(self.folders),
                "seed": self.seed,
                "devices": list(_DEVICES),
            }
        )

    def _readable(self) -> list[str]:
        return [*_readable(), *self.folders]

    def _bubblewrap(self) -> list[str]:
        options = ["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
        options += ["--die-with-parent", "--new-session"]
        for path in [*self._readable(), *_python(), *_own()]:
            for place in dict.fromkeys((os.path.realpath(path), path)):
                options += ["--ro-bind", os.path.realpath(path), place]
        for path in _DEVICES:
            options += ["--dev-bind", path, path]
        options += ["--size", str(_FOLDER_BYTES), "--tmpfs", self.folder, "--chdir", "/"]
        return [str(shutil.which("bwrap")), *options]


def _readable() -> Iterator[str]:
    """List what a Python program reads: the libraries, and no more of an environment than that."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [f"{sys.base_prefix}/lib", *_LIBRARIES, *_FILES]
    yield from (path for path in dict.fromkeys(found) if Path(path).exists())


def _python() -> Iterator[str]:
    """List what a new Python process needs besides to start."""
    for path in (sys.executable, f"{sys.prefix}/pyvenv.cfg", f"{sys.base_prefix}/bin"):
        if Path(path).exists():
            yield path


def _own() -> Iterator[str]:
    root = _PACKAGES / "featurize"
    yield from (str(root / name) for name in (*_OWN_FILES, _OWN_FOLDER))
