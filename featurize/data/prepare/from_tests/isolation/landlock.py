"""Landlock: a process may read some folders, write one, and reach no other file.

https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
from collections.abc import Iterable

from featurize.data.prepare.from_tests.isolation.kernel import (
    IsolationError,
    set_no_new_privileges,
    system_call,
)

# Numbers of the system calls: the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # the first so many bits
_TCP = 0b11  # bind, connect; from version 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # from version 6
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def landlock_version() -> int:
    """Get the version of the kernel's Landlock.

    Raises:
        IsolationError: the kernel has none.
    """
    try:
        return system_call(_CREATE_RULESET, None, 0, _GET_VERSION)
    except IsolationError:
        raise IsolationError("the kernel has no Landlock") from None


def restrict_files(*, readable: Iterable[str], devices: Iterable[str], writable: str) -> None:
    """Allow this process and its children to reach nothing but these files and folders.

    Nothing can be executed, and no folder, link or device can be made.
    """
    version = landlock_version()
    handled = (1 << _RIGHTS_OF_VERSION.get(version, 16)) - 1
    content = (ctypes.c_uint64 * 3)(handled, _TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = system_call(_CREATE_RULESET, content, size, 0)
    reading = _READ_FILE | _READ_DIR
    writing = reading | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    for path in readable:
        _allow(ruleset, path, reading)
    for path in devices:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    _allow(ruleset, writable, writing & handled)
    set_no_new_privileges()
    system_call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):  # noqa: PTH112
        rights &= _FILE_RIGHTS
    rule = _Rule(rights, descriptor)
    system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(descriptor)
