"""Calls of the Linux kernel that the standard library does not offer.

NOTE: ctypes, because the process that runs programs loads nothing but the standard library, and the
bindings on PyPI are pre-releases or need libseccomp.
"""

import ctypes
import functools
import os

from featurize.errors import CriticError

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION = 0x20080522
_NUMBER_OF_CAPSET = {"x86_64": 126, "aarch64": 91}


class IsolationError(CriticError):
    """The kernel does not allow a means of isolation here."""


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> int:
    """Call a function of the C library; integers are passed as 64 bits.

    Raises:
        IsolationError: it failed.
    """
    library = _library()
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    try:
        result = int(library[function](*wide))
    except AttributeError:
        raise IsolationError(f"{function}: not in the C library") from None
    if result < 0:
        raise IsolationError(f"{function}: {os.strerror(ctypes.get_errno())}")
    return result


def system_call(number: int, *arguments: object) -> int:
    """Call the kernel by the number of the system call."""
    return call("syscall", number, *arguments)


def set_no_new_privileges() -> None:
    """Let no program started from here gain privileges; the kernel wants it before any filter."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def end_with_parent(signal: int) -> None:
    """Get `signal` when the parent ends."""
    call("prctl", _PR_SET_PDEATHSIG, signal, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up all capabilities, those within the user namespace too."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    system_call(_NUMBER_OF_CAPSET[os.uname().machine], header, none)
