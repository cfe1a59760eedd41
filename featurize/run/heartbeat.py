"""Signs of life: a rank whose machine has gone silently is missed, not waited for.

A launcher sees a process die, but not another machine vanish: without collectives nobody else would
notice either, and the first rank would wait at the end of the run for ever.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

from featurize.run.rendezvous import store_errors

BEAT_SECONDS = 10.0
"""Between two signs of life."""

LOST_SECONDS = 300.0
"""Without a sign for so long, a rank is given up: networks may stall for minutes."""

_WAKE_SECONDS = 0.2  # the end of the program waits this long for the thread


def start_beating(store: Any, rank: int) -> None:
    """Gives signs of life until the main thread ends; `store` is a connection of its own."""
    threading.Thread(target=_beat, args=(store, rank)).start()


class SilenceWatch:
    """Watches the ranks that are waited for."""

    def __init__(self, store: Any) -> None:
        """Silence counts from now on."""
        self._store = store
        self._heard: dict[int, tuple[int, float]] = {}  # rank -> beats, and when they last grew

    def check(self, ranks: Iterable[int]) -> None:
        """Raises TimeoutError when one of them has been silent for too long."""
        now = time.monotonic()
        for rank in ranks:
            beats = int(self._store.add(f"beat/{rank}", 0))
            before, since = self._heard.get(rank, (-1, now))
            if beats != before:
                self._heard[rank] = (beats, now)
            elif now - since > LOST_SECONDS:
                raise TimeoutError(
                    f"rank {rank} has given no sign of life for {LOST_SECONDS:.0f} seconds: its"
                    " machine may be gone; run the same command again, which redoes only what that"
                    " rank had begun"
                )


def _beat(store: Any, rank: int) -> None:
    """NOTE: no daemon thread, which the end of the program would catch within C, and abort."""
    is_running = threading.main_thread().is_alive
    due = time.monotonic()
    with contextlib.suppress(ConnectionError), store_errors():
        while is_running():
            if time.monotonic() >= due:
                store.add(f"beat/{rank}", 1)
                due = time.monotonic() + BEAT_SECONDS
            time.sleep(_WAKE_SECONDS)
