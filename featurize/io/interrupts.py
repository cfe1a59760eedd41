"""Ctrl-C and SIGTERM unwind a program: what is being written is finished or dropped."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: the machine shuts down or the job's time is over."""


@contextlib.contextmanager
def raises_when_terminated() -> Iterator[None]:
    """Raise Terminated in the block when SIGTERM arrives, as Ctrl-C raises KeyboardInterrupt."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break the unwinding
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def keep_interrupts() -> None:
    """Repeat a Ctrl-C that hits a destructor, where Python prints it and carries on."""
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)
            return
        again = threading.Timer(0.01, _thread.interrupt_main)  # raised in here it is lost again
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
