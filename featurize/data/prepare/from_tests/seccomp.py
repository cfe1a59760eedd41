"""Seccomp: a process may use the listed system calls, and no other.

Those suffice for a Python program that computes, reads and writes files. Missing are all that make
processes, sockets, links or shared memory, send signals to others, or reach other processes.
https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from featurize.data.prepare.from_tests.isolation import IsolationError, call, set_no_new_privileges

Numbers: TypeAlias = tuple[int | None, int | None]
"""The number of a system call on x86-64 and on ARM; None: not there."""

_ALLOWED: dict[str, Numbers] = {
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "openat": (257, 56),
    "open": (2, None),
    "close": (3, 57),
    "close_range": (436, 436),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "lseek": (8, 62),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "select": (23, None),
    "pselect6": (270, 72),
    "poll": (7, None),
    "ppoll": (271, 73),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    "pause": (34, None),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "uname": (63, 160),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "fstatfs": (138, 44),
    "umask": (95, 166),
    "set_robust_list": (273, 99),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
    "rseq": (334, 293),
    "membarrier": (324, 283),
}
# What the process that starts programs may do besides, and the programs may not.
_STARTING: dict[str, Numbers] = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "setsid": (112, 157),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rmdir": (84, None),
    "prctl": (157, 167),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
}
# Programs may send signals to themselves only.
_SIGNALS: dict[str, Numbers] = {"kill": (62, 129), "tgkill": (234, 131)}
# The numbers, the argument to check, and its allowed values.
_CHECKED: dict[str, tuple[Numbers, int, tuple[int, ...]]] = {
    # Not F_SETOWN, which makes the kernel send signals to any process.
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),
    "ioctl": ((16, 29), 1, (0x5401, 0x5450, 0x5451)),  # TCGETS, FIONCLEX, FIOCLEX
    "prlimit64": ((302, 261), 0, (0,)),  # of the process itself
}
_CLONE3 = 435  # "not implemented" makes the C library try clone
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_PR_SET_SECCOMP, _FILTER = 22, 2
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in the kernel's seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict_system_calls() -> None:
    """Refuse all system calls but those listed here, for this process and its children.

    Numbers with the bit of the x32 interface are in no list, so refused.

    Raises:
        IsolationError: unknown machine, or the kernel does not allow it.
    """
    architecture, _ = _machine()
    allowed = [*_ALLOWED.values(), *_STARTING.values(), *_SIGNALS.values()]
    set_no_new_privileges()
    _install(
        [
            _step(_LOAD, _MACHINE),
            _step(_JUMP_IF_EQUAL, architecture, 1, 0),
            _step(_RETURN, _KILL),
            _step(_LOAD, _NUMBER),
            *_on_calls(allowed, [_step(_RETURN, _ALLOW)]),
            *_when(_CLONE3, [_step(_RETURN, _ERROR | errno.ENOSYS)]),
            *(
                step
                for numbers, argument, values in _CHECKED.values()
                for step in _on_calls([numbers], _allow_only(argument, values))
            ),
            _refuse(),
        ]
    )


def forbid_processes() -> None:
    """Refuse what only the process that starts programs needs; for one program, a process.

    This adds a second, short filter to that of `restrict_system_calls`: the kernel takes some time
    to install a long one.
    """
    _install(
        [
            _step(_LOAD, _NUMBER),
            *_on_calls(_STARTING.values(), [_refuse()]),
            *_on_calls(_SIGNALS.values(), _allow_only(0, [os.getpid()])),
            _step(_RETURN, _ALLOW),
        ]
    )


def _machine() -> tuple[int, int]:
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise IsolationError(f"system calls of {machine} are unknown here")
    return _MACHINES[machine]


def _on_calls(calls: Iterable[Numbers], steps: list[bytes]) -> list[bytes]:
    """Take these steps if the number of the call, which is loaded, is that of one of the calls."""
    _, column = _machine()
    numbers = [both[column] for both in calls]
    return [step for number in numbers if number is not None for step in _when(number, steps)]


def _when(value: int, steps: list[bytes]) -> list[bytes]:
    """Take these steps if what is loaded equals `value`, else skip them."""
    return [_step(_JUMP_IF_EQUAL, value, 0, len(steps)), *steps]


def _allow_only(argument: int, values: Iterable[int]) -> list[bytes]:
    """Allow a call with these values; the kernel reads the lower 32 bits of these arguments."""
    allow = [step for value in values for step in _when(value, [_step(_RETURN, _ALLOW)])]
    return [_step(_LOAD, _ARGUMENTS + 8 * argument), *allow, _refuse()]


def _refuse() -> bytes:
    return _step(_RETURN, _ERROR | errno.EPERM)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _install(steps: Sequence[bytes]) -> None:
    instructions = b"".join(steps)
    content = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(steps), ctypes.addressof(content))
    call("prctl", _PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)
