"""Limits of a child process: CPU time, memory and files, and what its code may not do."""

import os
import resource
import signal
from pathlib import Path

# What a function under test must not do. The kernel refuses it too where the programs are isolated;
# this gives the error a name, and holds with --unsafe.
_REFUSED_EVENTS = (
    *("os.fork", "os.posix_spawn", "os.exec", "os.spawn", "os.system", "os.kill", "pty.spawn"),
    *("subprocess.Popen", "socket.", "ctypes.", "signal.pthread_kill", "shutil.", "os.remove"),
    *("os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
    *("os.truncate", "os.putenv", "os.unsetenv"),
)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


_MAX_FILE_BYTES = 1 << 20


_MAX_OPEN_FILES = 64


class RefusedError(RuntimeError):
    """The program did something that is not allowed here."""


def limit_process(cpu_seconds: float, memory_bytes: int) -> None:
    """Limit this process, for good: it becomes the owner of its folder if it is root."""
    owner = Path().stat().st_uid
    if os.geteuid() != owner:
        # Neither RLIMIT_NPROC nor the permissions of files restrict root.
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
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


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Raise RefusedError for what code under test must not do: an audit hook."""
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
