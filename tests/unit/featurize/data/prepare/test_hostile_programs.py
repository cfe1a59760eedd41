"""Programs that attack: what they try has no effect, under every protection this machine allows.

Every program first disarms the audit hook, so that it is the kernel that refuses.
"""

import contextlib
import os
import resource
import socket
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurize.data.prepare.from_tests.isolation import IsolationError
from featurize.data.prepare.from_tests.sandbox import (
    Limits,
    Outcome,
    Protection,
    Sandbox,
    Verdict,
    check_protection,
)

SECRET = "a-secret-of-the-environment"
DISARM = """
import os, sys
hook = sys.modules["featurize.data.prepare.from_tests.children"]
hook._REFUSED_EVENTS, hook._WRITING = (), 0
"""
MODULES = ("threading", "socket", "ctypes", "subprocess", "multiprocessing", "resource", "fcntl")


@pytest.fixture(
    scope="module",
    params=[Protection.BUBBLEWRAP, Protection.NAMESPACES, Protection.LANDLOCK],
    ids=lambda protection: protection.value,
)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        check_protection(request.param)
    except IsolationError as error:
        pytest.skip(f"{request.param.value} cannot be set up here: {error}")
    limits = Limits(cpu_seconds=0.6, wall_seconds=120.0, memory_bytes=512 << 20)
    with (
        pytest.MonkeyPatch.context() as patch,
        Sandbox(limits=limits, modules=MODULES, protection=request.param) as made,
    ):
        patch.setenv("CRITIC_SECRET", SECRET)
        yield made


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may read and write."""
    modes = {path: path.stat().st_mode for path in (tmp_path, *tmp_path.parents)}
    (tmp_path / "file").write_text(SECRET)
    (tmp_path / "file").chmod(0o666)
    for path in modes:
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o777)
    yield tmp_path
    for path, mode in modes.items():
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(mode)


def attack(sandbox: Sandbox, body: str) -> Outcome:
    """Run `body`; the program passes if that fails."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    program = (
        f"{DISARM}\ndef attack():\n    try:\n{lines}\n"
        "    except (OSError, RuntimeError, LookupError, ImportError) as error:\n"
        "        return type(error).__name__\n    return 'possible'\n"
    )
    return sandbox.run(program=program, tests="assert attack() != 'possible', attack()")


def is_alive(sandbox: Sandbox) -> bool:
    outcome = sandbox.run(program="def f():\n    return 1\n", tests="assert f() == 1")
    return outcome.verdict is Verdict.PASSED


def test_an_attack_that_is_no_attack_is_possible(sandbox: Sandbox):
    assert attack(sandbox, "open('file', 'w').write('x')").verdict is Verdict.WRONG
    assert attack(sandbox, "raise PermissionError").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "body",
    [
        "open({path!r}).read()",
        "os.listdir({folder!r})",
        "os.listdir(os.path.expanduser('~root'))",
        "os.listdir({home!r})",
        "open('/etc/passwd').read()",
        "open('/etc/shadow').read()",
        "os.listdir('/proc')",
        "open('/proc/self/environ').read()",
        "open('/proc/{parent}/environ').read()",
        "open('/proc/{parent}/mem', 'rb').read(1)",
        "os.listdir('/tmp')\nopen({path!r}).read()",
        "os.listdir('/sys')",
        "open('/dev/shm/critic-hostile', 'w')",
        "os.chroot({folder!r})",
    ],
)
def test_nothing_outside_is_read(sandbox: Sandbox, outside: Path, body: str):
    names = {
        "path": str(outside / "file"),
        "folder": str(outside),
        "home": str(Path.home()),
        "parent": os.getpid(),
    }
    outcome = attack(sandbox, body.format(**names))
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")


def test_the_environment_has_no_secrets(sandbox: Sandbox):
    program = f"{DISARM}\ndef f():\n    return sorted(os.environ.items())\n"
    tests = f"seen = f()\nassert {SECRET!r} not in str(seen), seen\nassert len(seen) < 9, seen"
    assert sandbox.run(program=program, tests=tests).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "body",
    [
        "open({path!r}, 'w')",
        "open({path!r}, 'a')",
        "open({folder!r} + '/new', 'w')",
        "os.open({folder!r}, os.O_TMPFILE | os.O_RDWR)",
        "os.truncate({path!r}, 0)",
        "os.remove({path!r})",
        "os.rename({path!r}, {path!r} + '2')",
        "os.mkdir({folder!r} + '/new')",
        "os.symlink('/etc', 'link')",
        "os.link({path!r}, 'link')",
        "os.chmod({path!r}, 0)",
        "os.utime({path!r})",
        "os.mkfifo({folder!r} + '/new')",
        "os.setxattr({path!r}, 'user.a', b'b')",
        "open({library!r} + '/critic_hostile.py', 'w')",
        "open({library!r} + '/os.py', 'a')",
    ],
)
def test_nothing_outside_is_written(sandbox: Sandbox, outside: Path, body: str):
    before = [(path.name, path.stat()) for path in sorted(outside.iterdir())]
    library = Path(sysconfig.get_paths()["stdlib"])
    names = {"path": str(outside / "file"), "folder": str(outside), "library": str(library)}
    outcome = attack(sandbox, body.format(**names))
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
    after = [(path.name, path.stat()) for path in sorted(outside.iterdir())]
    assert [(name, stat.st_mtime_ns, stat.st_mode) for name, stat in after] == [
        (name, stat.st_mtime_ns, stat.st_mode) for name, stat in before
    ]
    assert not (library / "critic_hostile.py").exists()


@pytest.mark.parametrize(
    "body",
    [
        "socket.create_connection(('127.0.0.1', {port}), timeout=1)",
        "socket.create_connection(('localhost', {port}), timeout=1)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_UNIX).connect(chr(0) + 'critic-hostile-{port}')",
        "socket.socketpair()",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.getaddrinfo('example.org', 80)",
    ],
)
def test_no_socket_is_opened_not_even_to_loopback(sandbox: Sandbox, body: str):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        port = server.getsockname()[1]
        abstract.bind(f"\0critic-hostile-{port}")  # other runs on this machine have other ports
        abstract.listen()
        server.settimeout(0.1)
        outcome = attack(sandbox, "import socket\n" + body.format(port=port))
        assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "body",
    [
        "while True: os.fork()",
        "os.posix_spawn('/bin/sh', ['sh'], {})",
        "os.execv('/bin/sh', ['sh', '-c', 'true'])",
        "import subprocess; subprocess.run(['true'])",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import threading; threading.Thread(target=print).start()",
        "import _thread; _thread.start_new_thread(print, ())",
        "import pty; pty.fork()",
        "import time\nif os.fork() == 0: os.setsid(); time.sleep(60)",
    ],
)
def test_no_process_and_no_thread_is_started(sandbox: Sandbox, body: str):
    outcome = attack(sandbox, body)
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
    assert is_alive(sandbox)


CALLS = {
    "unshare": 272, "ptrace": 101, "userfaultfd": 323, "io_uring_setup": 425, "bpf": 321,
    "memfd_create": 319, "mount": 165, "setns": 308, "process_vm_readv": 310, "kcmp": 312,
    "perf_event_open": 298, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
    "keyctl": 250, "personality": 135, "syslog": 103, "open_by_handle_at": 304,
    "pidfd_getfd": 438, "inotify_init1": 294, "fanotify_init": 300, "setsid": 112, "execveat": 322,
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_the_library_does_not_offer_are_refused_too(sandbox: Sandbox, call: str):
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86-64")
    body = (
        "import ctypes\nlibrary = ctypes.CDLL(None, use_errno=True)\n"
        f"if library.syscall({CALLS[call]}, 16, {os.getpid()}, 0, 0, 0) < 0: raise OSError"
    )
    outcome = attack(sandbox, body)
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")


def test_calls_of_the_x32_interface_are_refused(sandbox: Sandbox):
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has them")
    body = "import ctypes\nif ctypes.CDLL(None).syscall(0x40000000 + 57) < 0: raise OSError"
    outcome = attack(sandbox, body)
    assert outcome.verdict in (Verdict.PASSED, Verdict.CRASHED)
    assert is_alive(sandbox)


@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getppid(), 9)",
        "os.kill({parent}, 0)",
        "os.kill(-1, 9)",
        "os.killpg(os.getpgid(os.getppid()), 9)",
        "os.kill(1, 9)",
        "import signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.sched_setaffinity(os.getppid(), {{0}})",
    ],
)
def test_no_other_process_gets_a_signal_or_a_limit(sandbox: Sandbox, body: str):
    before = resource.getrlimit(resource.RLIMIT_CPU)
    outcome = attack(sandbox, body.format(parent=os.getpid()))
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
    assert resource.getrlimit(resource.RLIMIT_CPU) == before
    assert is_alive(sandbox)


def test_a_program_may_end_itself(sandbox: Sandbox):
    outcome = sandbox.run(program=f"{DISARM}\ndef f():\n    os.abort()\n", tests="f()")
    assert (outcome.verdict, outcome.detail) == (Verdict.CRASHED, "SIGABRT")
    outcome = sandbox.run(program=f"{DISARM}\ndef f():\n    os.kill(os.getpid(), 9)\n", tests="f()")
    assert (outcome.verdict, outcome.detail) == (Verdict.CRASHED, "SIGKILL")


@pytest.mark.parametrize("size", [1 << 20, 1, 0], ids=["large", "small", "empty"])
def test_the_disk_is_not_filled(sandbox: Sandbox, size: int):
    program = f"""{DISARM}
import itertools
def f():
    for number in itertools.count():
        try:
            open(str(number), "wb").write(bytes({size}))
        except OSError:
            pass
"""
    folder = Path(sandbox._folder.name)
    largest = 0
    is_done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not is_done.is_set():
            with contextlib.suppress(OSError):
                used = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
                largest = max(largest, used)
            is_done.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    outcome = sandbox.run(program=program, tests="f()")
    is_done.set()
    watcher.join()
    assert outcome.verdict in (Verdict.CRASHED, Verdict.TIMED_OUT)
    assert largest < 1 << 30
    tests = "assert f() == []"
    listing = sandbox.run(program="import os\ndef f():\n    return os.listdir()\n", tests=tests)
    assert listing.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "body",
    [
        "while True: print('x' * 1_000_000)",
        "while True: os.write(1, b'x' * 1_000_000)",
        "while True: sys.stderr.write('x' * 1_000_000)",
        "[[os.write(fd, b'x' * 60_000) for fd in range(3, 64) if can(fd)] for _ in range(10**6)]",
    ],
)
def test_gigabytes_of_output_go_nowhere(sandbox: Sandbox, body: str):
    program = f"""{DISARM}
def can(fd):
    try:
        os.write(fd, b"x" * 60_000)
    except OSError:
        return False
    return True
def f():
    {body}
"""
    outcome = sandbox.run(program=program, tests="f()")
    assert outcome.verdict in (Verdict.CRASHED, Verdict.TIMED_OUT)
    assert is_alive(sandbox)


FORGERIES = {
    "write the report to every pipe": """
for fd in range(3, 256):
    try:
        os.write(fd, b"passed ")
    except OSError:
        pass
os._exit(0)
""",
    "answer instead of the program": """
for fd in range(3, 256):
    try:
        os.write(fd, b'["value", {"dict": [["check", 1], ["__builtins__", 1]]}, []]\\n' * 9)
    except OSError:
        pass
def f(x):
    return 0
""",
    "exit early": "os._exit(0)",
    "exit in a call": "def f(x):\n    os._exit(0)",
    "exit by an exception": "raise SystemExit(0)",
    "exit by an exception in a call": "def f(x):\n    raise SystemExit(0)",
    "exit at the end": "import atexit\natexit.register(os._exit, 0)\ndef f(x):\n    return 0",
    "patch the checker": "def check(f):\n    pass\ndef f(x):\n    return 0",
    "patch built-in functions": """
import builtins
builtins.abs = builtins.len = builtins.isinstance = builtins.all = lambda *a: 0
builtins.AssertionError = SystemExit
def abs(x): return 0
def all(x): return True
def f(x): return 0
""",
    "patch math": "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 0",
    "equal to everything": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return 0
def f(x): return Equal()
""",
    "a string equal to everything": """
class Equal(str):
    __hash__ = str.__hash__
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return Equal("wrong")
""",
    "patch the report": """
hook._report = lambda run, writer: (os.write(writer, b"passed "), os._exit(0))
hook._last_file = lambda error: "<program>"
hook.Program = None
def f(x): return 0
""",
    "walk the frames": """
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_locals.items()):
        if isinstance(value, int) and 2 < value < 256:
            try:
                os.write(value, b"passed ")
            except OSError:
                pass
    frame = frame.f_back
os._exit(0)
""",
    "trace the tests": """
def trace(frame, event, arg):
    frame.f_trace_lines = False
    return None
sys.settrace(trace)
sys.setprofile(lambda *a: os._exit(0) if a[1] == "return" else None)
def f(x): return 0
""",
    "a deep answer": """
def f(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b"[" * 50_000 + b"\\n")
        except OSError:
            pass
    return 0
""",
    "a number equal to everything": """
class Equal(int):
    __hash__ = int.__hash__
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0
def f(x): return Equal(0)
""",
    "a list equal to everything": """
class Equal(list):
    def __eq__(self, other): return True
def f(x): return Equal([0])
""",
    "not a number": "def f(x): return float('nan')",
    "an object that runs code when it is copied": """
class Exit:
    def __reduce__(self): return os._exit, (0,)
def f(x): return Exit()
""",
    "a list within itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "replace the modules that talk": """
import ast, json, marshal, pickle, struct
for module in (ast, json, marshal, pickle, struct):
    for name in list(vars(module)):
        try:
            setattr(module, name, lambda *a, **k: 42)
        except Exception:
            pass
def f(x): return 0
""",
    "modules for the tests in the folder": """
for name in ("math", "check", "sitecustomize", "usercustomize"):
    open(name + ".py", "w").write("import os; isclose = lambda *a: True")
sys.path.insert(0, ".")
def f(x): return 0
""",
    "an error whose text never ends": """
class Error(AssertionError):
    def __str__(self):
        while True: pass
    __repr__ = __str__
def f(x): raise Error
""",
    "several answers at once": """
def f(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b'["value", 42, []]\\n' * 5)
        except OSError:
            pass
    return 0
""",
    "read what the tests send next": """
def f(x):
    for fd in range(64):
        try:
            os.set_blocking(fd, False)
            os.read(fd, 100_000)
        except OSError:
            pass
    return 0
""",
    "close everything": "os.closerange(0, 1000)\ndef f(x): return 42",
    "look for what the tests expect": """
import gc
def f(x):
    for one in gc.get_objects():
        if isinstance(one, dict) and "tests" in one and "program" in one:
            return 42
    return 0
""",
}
TESTS = """
import math
def check(candidate):
    assert candidate(6) == 42
    assert abs(candidate(6) - 42) < 1e-6
    assert math.isclose(candidate(6), 42)
check(f)
"""


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_no_program_forges_the_result(sandbox: Sandbox, program: str):
    outcome = sandbox.run(program=DISARM + program, tests=TESTS)
    assert outcome.verdict is not Verdict.PASSED
    assert is_alive(sandbox)


def test_a_right_program_passes_the_tests_that_are_attacked(sandbox: Sandbox):
    outcome = sandbox.run(program=f"{DISARM}\ndef f(x):\n    return x * 7\n", tests=TESTS)
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
