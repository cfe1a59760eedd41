"""Means of the Linux kernel that keep a process away from files, networks and other processes.

Namespaces give it its own network, process table and tree of files: no network interface is up, and
the tree has the folders Python needs, read-only, and one folder to write in, of bounded size.
Landlock lets it read some folders, write one, and reach no other file:
https://docs.kernel.org/userspace-api/landlock.html

NOTE: ctypes, because the process that runs programs loads nothing but the standard library, and the
bindings on PyPI are pre-releases or need libseccomp.
"""

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from featurize.errors import CriticError

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1
# Numbers of system calls; of the others they are the same on every architecture.
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPABILITY_VERSION = 0x20080522
# Landlock's rights.
_GET_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # the first so many bits
_TCP = 0b11  # bind, connect; from version 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # from version 6
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE
# unshare(2): mount, UTS, IPC, user, PID and network.
_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000  # mount(2)
_NOSUID, _NODEV = 0x2, 0x4
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY = 0x1


class IsolationError(CriticError):
    """The kernel does not allow a means of isolation here."""


def call(function: str, *arguments: object) -> int:
    """Call a function of the C library; integers are passed as 64 bits, texts as file names.

    Raises:
        IsolationError: it failed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    try:
        result = int(library[function](*map(_to_c, arguments)))
    except AttributeError:
        raise IsolationError(f"{function}: not in the C library") from None
    if result < 0:
        raise IsolationError(f"{function}: {os.strerror(ctypes.get_errno())}")
    return result


def _to_c(argument: object) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return os.fsencode(argument) if isinstance(argument, str) else argument


def set_no_new_privileges() -> None:
    """Let no program started from here gain privileges; the kernel wants it before any filter."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up all capabilities, those within the user namespace too."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    call("syscall", _CAPSET[os.uname().machine], header, none)


def landlock_version() -> int:
    """Get the version of the kernel's Landlock; 0 if it has none."""
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _GET_VERSION)
    except IsolationError:
        return 0


def restrict_files(*, readable: Iterable[str], devices: Iterable[str], writable: str) -> None:
    """Allow this process and its children to reach nothing but these files and folders.

    Nothing can be executed, and no folder, link or device can be made.

    Raises:
        IsolationError: the kernel has no Landlock.
    """
    version = landlock_version()
    if not version:
        raise IsolationError("the kernel has no Landlock")
    handled = (1 << _RIGHTS_OF_VERSION.get(version, 16)) - 1
    content = (ctypes.c_uint64 * 3)(handled, _TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call("syscall", _CREATE_RULESET, content, size, 0)
    reading = _READ_FILE | _READ_DIR
    writing = reading | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    for path in readable:
        _allow(ruleset, path, reading)
    for path in devices:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    _allow(ruleset, writable, writing & handled)
    set_no_new_privileges()
    call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not Path(path).is_dir():
        rights &= _FILE_RIGHTS
    rule = _Rule(rights, descriptor)
    call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(descriptor)


def enter_namespaces(
    *, readable: Iterable[str], devices: Iterable[str], writable: str, size: int, user: int
) -> None:
    """Move into new namespaces, as `user` without capabilities; returns in a child of this process.

    `writable` is a folder, at first empty, of `size` bytes at most.

    Raises:
        IsolationError: the kernel or the container does not allow it.
    """
    outside = os.geteuid(), os.getegid()
    call("unshare", _NEW)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        for file, number in zip(("uid_map", "gid_map"), outside, strict=True):
            Path("/proc/self", file).write_text(f"{user} {number} 1")
    except OSError as error:
        raise IsolationError(f"user namespace: {error}") from None
    _become_child()
    _mount(None, "/", None, _RECURSIVE | _PRIVATE, None)
    _make_tree(readable, devices, writable, size)
    drop_capabilities()


def _become_child() -> None:
    """Continue in a child, the first of its namespace; this process waits, then ends like it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _make_tree(readable: Iterable[str], devices: Iterable[str], writable: str, size: int) -> None:
    root = writable
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in readable:
        source = os.path.realpath(path)
        for place in (root + source, root + path):
            if not Path(place).exists():  # e.g. as part of a folder bound before
                _bind(source, place)
                _make_read_only(place, _AT_RECURSIVE)
    for path in devices:
        _bind(path, root + path)
    inside = Path(root + writable)
    inside.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", str(inside), "tmpfs", _NOSUID | _NODEV, f"size={size},nr_inodes=4k,mode=700")
    os.chdir(root)
    # As in the manual of pivot_root(2): the old root is mounted over the new one, then detached.
    call("syscall", _PIVOT_ROOT[os.uname().machine], ".", ".")
    call("umount2", ".", _DETACH)
    os.chdir("/")
    _make_read_only("/", 0)


def _bind(source: str, target: str) -> None:
    place = Path(target)
    if Path(source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, target, None, _BIND | _RECURSIVE, None)


def _make_read_only(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)  # set, clear, propagation, namespace
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path, flags, attributes, 32)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    try:
        call("mount", source, target, kind, flags, options)
    except IsolationError as error:
        raise IsolationError(f"{error} ({target})") from None
