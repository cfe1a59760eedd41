"""Waits for something that another thread or process does."""

import time
from collections.abc import Callable


def wait_until(is_done: Callable[[], bool], *, seconds: float = 120, pause: float = 0.002) -> None:
    """Returns when it is done; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)
