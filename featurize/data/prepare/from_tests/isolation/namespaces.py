"""Namespaces: a process gets its own network, process table and tree of files.

The network has no interface that is up. The tree has the folders Python needs, read-only, and one
folder to write in, of bounded size.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from featurize.data.prepare.from_tests.isolation.kernel import (
    IsolationError,
    call,
    drop_capabilities,
    end_with_parent,
    system_call,
)

# unshare(2): mount, UTS, IPC, user, PID and network.
_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000  # mount(2)
_NOSUID, _NODEV = 0x2, 0x4
_DETACH = 2
_MOUNT_SETATTR = 442  # the same on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY = 0x1
_SIGKILL = 9


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
    """Go on in a child, the first process of its namespace; this process waits and ends like it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    end_with_parent(_SIGKILL)


def _make_tree(readable: Iterable[str], devices: Iterable[str], writable: str, size: int) -> None:
    root = writable
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in readable:
        source = os.path.realpath(path)
        for place in (root + source, root + path):
            if not Path(place).exists():  # e.g. as part of a folder bound before
                _bind(source, place)
                _make_read_only(place)
    for path in devices:
        _bind(path, root + path)
    inside = Path(root + writable)
    inside.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", str(inside), "tmpfs", _NOSUID | _NODEV, f"size={size},nr_inodes=4k,mode=700")
    os.chdir(root)
    # As in the manual of pivot_root(2): the old root is mounted over the new one, then detached.
    system_call(_PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", _DETACH)
    os.chdir("/")
    _make_read_only("/", is_recursive=False)


def _bind(source: str, target: str) -> None:
    place = Path(target)
    if os.path.isdir(source):  # noqa: PTH112
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, target, None, _BIND | _RECURSIVE, None)


def _make_read_only(path: str, *, is_recursive: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)  # set, clear, propagation, namespace
    flags = _AT_RECURSIVE if is_recursive else 0
    system_call(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, 32)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    try:
        call(
            "mount",
            *(None if one is None else os.fsencode(one) for one in (source, target, kind)),
            flags,
            None if options is None else os.fsencode(options),
        )
    except IsolationError as error:
        raise IsolationError(f"{error} ({target})") from None
