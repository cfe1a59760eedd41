"""What a child process does, and its limits: it runs a program, its tests, or both together."""

import ast
import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

from featurize.data.prepare.from_tests.exchange import (
    Channel,
    Program,
    ProgramEndedError,
    answer_calls,
)

PROGRAM_FILE = "<program>"
TESTS_FILE = "<tests>"
ENDED = b"ended"  # the tests' child: the program's child has ended
_IMPORT = re.compile(r"^(import|from)\b", re.MULTILINE)
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


def run_together(program: str, tests: str, writer: int) -> None:
    """Run program and tests in one namespace, and report how they ended."""
    namespace: dict[str, Any] = {"__name__": "__program__"}

    def run() -> None:
        for file, source in ((PROGRAM_FILE, program), (TESTS_FILE, tests)):
            exec(_compile(source, file), namespace)

    _report(run, writer)


def run_program(program: str, tests: str, incoming: int, outgoing: int) -> None:
    """Load the program and answer the calls of the tests."""
    namespace: dict[str, Any] = {"__name__": "__program__"}

    def load() -> None:
        # The program sees what the tests import, as if both were in one module.
        imports = _imports(tests)
        exec(_compile(program, PROGRAM_FILE), namespace)
        exec(imports, namespace)

    answer_calls(Channel(incoming, outgoing), namespace, load)


def run_tests(tests: str, incoming: int, outgoing: int, writer: int) -> None:
    """Run the tests on what the program defines, and report how they ended."""
    program = Program(Channel(incoming, outgoing))

    def run() -> None:
        code = _compile(tests, TESTS_FILE)
        namespace: dict[str, Any] = {"__name__": "__program__"}
        namespace.update(program.names(_names(code)))
        exec(code, namespace)

    _report(run, writer)


def _report(run: Callable[[], None], writer: int) -> None:
    try:
        run()
        message = "passed "
    except ProgramEndedError:
        message = ENDED.decode()
    except BaseException as error:  # a program may raise anything, SystemExit too
        is_wrong = isinstance(error, AssertionError) and _last_file(error) == TESTS_FILE
        message = f"{'wrong' if is_wrong else 'crashed'} {type(error).__name__}"
    os.write(writer, message.encode("utf-8", "replace")[:512])
    os._exit(0)


def _compile(source: str, file: str) -> CodeType:
    code = compile(source, file, "exec", dont_inherit=True)
    assert isinstance(code, CodeType)
    return code


def _imports(tests: str) -> CodeType:
    """Compile the imports at the top of the tests."""
    try:
        body = ast.parse(tests).body if _IMPORT.search(tests) else []
    except (SyntaxError, ValueError):
        body = []
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return compile(ast.Module(body=list(imports), type_ignores=[]), TESTS_FILE, "exec")


def _names(code: CodeType) -> set[str]:
    """Find all names that the code and its functions read."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *(name for one in inner for name in _names(one))}


def _last_file(error: BaseException) -> str | None:
    """Get the file whose line raised the error: an assert of the program itself is no test."""
    trace: TracebackType | None = error.__traceback__
    file = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return file
