"""Programs end in time, cannot do damage, and pass only by passing the tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurize.data.prepare.from_tests.sandbox import Limits, Outcome, Sandbox, Verdict


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory_bytes=256 << 20)
    with Sandbox(limits=limits, modules=("threading", "socket", "time", "no_such_module")) as made:
        yield made


def run(sandbox: Sandbox, body: str, tests: str = "f()") -> Outcome:
    return sandbox.run(program=f"import os, sys\ndef f():\n    {body}\n", tests=tests)


@pytest.mark.parametrize(
    ("body", "tests", "verdict", "detail"),
    [
        ("return 1", "assert f() == 1", Verdict.PASSED, ""),
        ("return 2", "assert f() == 1", Verdict.WRONG, "AssertionError"),
        ("assert False", "f()", Verdict.CRASHED, "AssertionError"),
        ("return 1 / 0", "f()", Verdict.CRASHED, "ZeroDivisionError"),
        ("return unknown", "f()", Verdict.CRASHED, "NameError"),
        ("return f()", "f()", Verdict.CRASHED, "RecursionError"),
        ("return (", "f()", Verdict.CRASHED, "SyntaxError"),
    ],
)
def test_the_kinds_of_endings_are_told_apart(
    sandbox: Sandbox, body: str, tests: str, verdict: Verdict, detail: str
):
    outcome = run(sandbox, body, tests)
    assert (outcome.verdict, outcome.detail) == (verdict, detail)


@pytest.mark.parametrize(
    "body", ["os._exit(0)", "sys.exit(0)", "raise SystemExit", "os.closerange(0, 256); os._exit(0)"]
)
def test_a_program_that_exits_has_not_passed(sandbox: Sandbox, body: str):
    assert run(sandbox, body).verdict is Verdict.CRASHED


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("while True: pass", "CPU time"),
        (
            "import signal\n    signal.signal(signal.SIGPROF, signal.SIG_IGN)\n    while 1: pass",
            "CPU time",
        ),
        ("import time\n    time.sleep(60)", "wall clock"),
    ],
)
def test_a_program_without_end_is_stopped(sandbox: Sandbox, body: str, detail: str):
    outcome = run(sandbox, body)
    assert (outcome.verdict, outcome.detail) == (Verdict.TIMED_OUT, detail)
    assert outcome.cpu_seconds < 3


def test_less_time_can_be_given_to_one_program(sandbox: Sandbox):
    program = "def f():\n    while True: pass\n"
    outcome = sandbox.run(program=program, tests="f()", cpu_seconds=0.05)
    assert outcome.verdict is Verdict.TIMED_OUT
    assert outcome.cpu_seconds < 0.4


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("return bytearray(1 << 30)", "MemoryError"),
        ("while True: os.fork()", "RefusedError"),
        ("os.system('true')", "RefusedError"),
        ("os.posix_spawn('/bin/true', ['true'], {})", "RefusedError"),
        ("import threading\n    threading.Thread(target=print).start()", "RuntimeError"),
        ("import socket\n    socket.socket()", "RefusedError"),
        (f"os.kill({os.getpid()}, 9)", "RefusedError"),
        ("os.kill(os.getppid(), 9)", "RefusedError"),
    ],
    ids=["memory", "fork", "system", "spawn", "thread", "socket", "kill test", "kill parent"],
)
def test_memory_processes_threads_network_and_signals_are_limited(
    sandbox: Sandbox, body: str, detail: str
):
    outcome = run(sandbox, body)
    assert (outcome.verdict, outcome.detail) == (Verdict.CRASHED, detail)


def test_files_are_small_and_stay_in_the_work_folder(sandbox: Sandbox, tmp_path: Path):
    write = "open({!r}, 'w').write('x' * {})"
    assert run(sandbox, write.format("a", 10)).verdict is Verdict.PASSED
    assert run(sandbox, write.format("a", 10**7)).verdict is Verdict.CRASHED
    outside = tmp_path / "a"
    tmp_path.chmod(0o777)
    assert run(sandbox, write.format(str(outside), 10)).detail == "RefusedError"
    assert not outside.exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("open('left', 'w').close()", "return os.listdir()"),
        ("sys.left = 1", "return hasattr(sys, 'left')"),
    ],
)
def test_programs_do_not_see_each_other(sandbox: Sandbox, first: str, second: str):
    assert run(sandbox, first).verdict is Verdict.PASSED
    assert run(sandbox, second, "assert not f()").verdict is Verdict.PASSED


def test_drawn_numbers_and_the_order_of_sets_are_the_same_in_every_sandbox():
    program = "import random\ndef f():\n    return (random.random(), list({'a', 'b', 'c', 'd'}))\n"
    with Sandbox(limits=Limits()) as first, Sandbox(limits=Limits()) as second:
        seen = [
            sandbox.run(program=program, tests="raise type(repr(f()), (Exception,), {})")
            for sandbox in (first, first, second)
        ]
    assert len({outcome.detail for outcome in seen}) == 1
    assert seen[0].detail.startswith("(0.")


def test_output_of_a_program_does_not_disturb_the_protocol(sandbox: Sandbox):
    body = "print('{}', flush=True); os.write(1, b'{}'); os.write(2, b'{}'); return input"
    assert run(sandbox, body).verdict is Verdict.PASSED
    assert run(sandbox, "input()").detail == "EOFError"
