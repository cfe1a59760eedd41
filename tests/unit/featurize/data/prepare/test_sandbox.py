"""Programs end in time, cannot do damage, and pass only by passing the tests."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurize.data.prepare.from_tests import sandbox as module
from featurize.data.prepare.from_tests.isolation import IsolationError
from featurize.data.prepare.from_tests.problems import read_problems
from featurize.data.prepare.from_tests.sandbox import (
    Limits,
    Outcome,
    Protection,
    Sandbox,
    Verdict,
    choose_protection,
)
from featurize.errors import CriticError


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = Limits(cpu_seconds=4.0, wall_seconds=120.0, memory_bytes=256 << 20)
    modules = ("threading", "socket", "time", "no_such_module")
    protection = choose_protection(is_unsafe_allowed=True)
    with Sandbox(limits=limits, modules=modules, protection=protection) as made:
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
def test_the_kinds_of_endings_are_distinguished(
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
    "body",
    [
        "while True: pass",
        "import signal\n    signal.signal(signal.SIGPROF, signal.SIG_IGN)\n    while 1: pass",
    ],
)
def test_a_program_without_end_is_stopped_by_its_cpu_time(sandbox: Sandbox, body: str):
    program = f"def f():\n    {body}\n"
    outcome = sandbox.run(program=program, tests="f()", cpu_seconds=0.1)
    assert (outcome.verdict, outcome.detail) == (Verdict.TIMED_OUT, "CPU time")
    assert outcome.cpu_seconds < 4  # the limit of the other programs


def test_a_program_that_sleeps_is_stopped_by_the_clock():
    limits = Limits(wall_seconds=0.5)
    protection = choose_protection(is_unsafe_allowed=True)
    with Sandbox(limits=limits, modules=("time",), protection=protection) as sandbox:
        outcome = run(sandbox, "import time\n    time.sleep(600)")
    assert (outcome.verdict, outcome.detail) == (Verdict.TIMED_OUT, "wall clock")


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
    protection = choose_protection(is_unsafe_allowed=True)
    with (
        Sandbox(limits=Limits(), protection=protection) as first,
        Sandbox(limits=Limits(), protection=protection) as second,
    ):
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


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (
            "def f(x): return x",
            "for x in (1, 1.5, -0.0, 'a', b'b', None, True): assert f(x) is x or f(x) == x",
        ),
        ("def f(x): return x", "assert f((1, [2], {3: {4}})) == (1, [2], {3: {4}})"),
        (
            "def f(x): return x",
            "assert type(f(frozenset({1}))) is frozenset and f(range(3)) == range(3)",
        ),
        ("def f(x): return x", "import math\nassert math.isnan(f(math.nan)) and f(-math.inf) < 0"),
        ("def f(x): return x", "assert f(7 ** 9999) == 7 ** 9999 and f(1j) == 1j"),
        (
            "def f(x): return x",
            "assert f('\\ud800') == '\\ud800' and f(bytearray(2)) == bytearray(2)",
        ),
        ("def f(x): x.sort()", "a = [2, 1]\nassert f(a) is None and a == [1, 2]"),
        ("def f(x): x[0].append(1)", "a = [[]]\nb = a[0]\nf(a)\nassert b == [1]"),
        ("def f(x): x['a'] = 1; x.pop('b')", "a = {'b': 2}\nf(a)\nassert a == {'a': 1}"),
        ("def f(x): yield from range(x)", "assert list(f(3)) == [0, 1, 2] and f(3) != [0, 1, 2]"),
        (
            "class A:\n def __init__(self, x): self.x = x\ndef f(a): return a.x",
            "assert f(A(3)) == A(3).x == 3",
        ),
        ("def f(*a, **k): return a, k", "assert f(1, b=2) == ((1,), {'b': 2})"),
        ("def f(): return sqrt(4)", "from math import sqrt\nassert f() == 2"),
        ("import math\ndef f(): return 2", "assert f() == math.sqrt(4)"),
        (
            "def f(): raise KeyError('k')",
            "try:\n f()\n assert False\nexcept KeyError as e: assert e.args == ('k',)",
        ),
        (
            "class E(ValueError): pass\ndef f(): raise E('x')",
            "try:\n f()\n assert False\nexcept ValueError as e: assert type(e).__name__ == 'E'",
        ),
        (
            "import numbers\nclass N:\n def __int__(self): return 6\n"
            " def __eq__(self, x): return x == 6\nnumbers.Integral.register(N)\n"
            "def f(): return N()",
            "assert f() == 6",  # as numpy's numbers do
        ),
        (
            "from collections import namedtuple\ndef f(): return namedtuple('P', 'x y')(1, 2)",
            "assert f() == (1, 2)",
        ),
        ("def f():\n a = []\n a.append(a)\n return a", "assert f() != [1]"),
    ],
)
def test_values_pass_between_program_and_tests_as_in_one_process(
    sandbox: Sandbox, program: str, tests: str
):
    for is_apart in (False, True):
        outcome = sandbox.run(program=program, tests=tests, is_apart=is_apart)
        assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, ""), is_apart


def test_tests_that_pass_objects_of_their_own_run_together_with_the_program(sandbox: Sandbox):
    program = "def f(x):\n    return x.y\n"
    tests = "class A:\n    y = 1\nassert f(A()) == 1\n"
    assert sandbox.run(program=program, tests=tests).detail == "TypeError"
    assert sandbox.run(program=program, tests=tests, is_apart=False).verdict is Verdict.PASSED


def test_the_strongest_protection_that_can_be_set_up_is_chosen(monkeypatch: pytest.MonkeyPatch):
    allowed: set[Protection] = set()

    def check(protection: Protection) -> None:
        if protection not in allowed:
            raise IsolationError(f"no {protection.value} today")

    monkeypatch.setattr(module, "check_protection", check)
    choose = choose_protection.__wrapped__
    with pytest.raises(CriticError) as refused:
        choose()
    for words in ("bubblewrap: no bubblewrap today", "Landlock: no Landlock today", "--unsafe"):
        assert words in str(refused.value)
    assert choose(is_unsafe_allowed=True) is Protection.NONE
    for protection in (Protection.LANDLOCK, Protection.NAMESPACES, Protection.BUBBLEWRAP):
        allowed.add(protection)
        assert choose() is choose(is_unsafe_allowed=True) is protection


def test_a_protection_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch):
    with_landlock = Sandbox(limits=Limits(), protection=Protection.LANDLOCK)
    try:
        with with_landlock:
            pass
    except IsolationError as error:
        pytest.skip(f"Landlock cannot be set up here: {error}")
    readable = [*module._readable(), "/tmp", "/var/tmp"]
    monkeypatch.setattr(module, "_readable", lambda: readable)
    with (
        pytest.raises(IsolationError, match="reading other files"),
        Sandbox(limits=Limits(), protection=Protection.LANDLOCK),
    ):
        pass


def test_a_program_cannot_change_a_helper_that_the_tests_call(sandbox: Sandbox, tmp_path: Path):
    row = {
        "task_id": "T/1",
        "prompt": "import math\n\ndef value(x):\n    return math.fabs(x - 7)\n\n\ndef find():\n"
        '    """Find a zero of value."""\n',
        "canonical_solution": "    return 7\n",
        "test": "def check(candidate):\n    assert value(candidate()) < 0.1\n",
        "entry_point": "find",
    }
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(row))
    [problem] = read_problems(str(path))
    assert sandbox.run(program=problem.reference, tests=problem.tests).verdict is Verdict.PASSED
    forged = "def value(x):\n    return 0\n\ndef find():\n    return 8\n"
    assert sandbox.run(program=forged, tests=problem.tests).verdict is Verdict.WRONG
