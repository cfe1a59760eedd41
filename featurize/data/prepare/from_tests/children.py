"""What a child process does: it runs a program, its tests, or both in one namespace."""

import ast
import os
import re
from collections.abc import Callable
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


_IMPORT = re.compile(r"^(import|from)\b", re.MULTILINE)


ENDED = b"ended"  # the tests' child: the program's child has ended


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
