"""Ranks of one start find each other, and notice when one of them is gone.

An elastic launcher gives restarted ranks the key-value store of the ranks that died, counters and
all, and the number of restarts does not tell the starts apart: each machine counts its own
failures. So the first rank opens a new round and admits the others. A launcher sees a process die,
but not another machine vanish, so every rank sends a heartbeat.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

WELCOME_SECONDS = 300.0
"""How long a rank waits to be admitted; the first rank starts at the same time."""

BEAT_SECONDS = 10.0
"""Time between two heartbeats."""

LOST_SECONDS = 300.0
"""A rank without a heartbeat for this long is given up; networks may stall for minutes."""

_POLL_SECONDS = 0.02
_WAKE_SECONDS = 0.2  # the end of the program waits this long for the thread


def join_round(store: Any, rank: int, world_size: int) -> int:
    """Get the number of this start, the same for all ranks started together.

    Ranks of earlier rounds are dead when a new one starts: the launcher sees to that.

    Raises:
        TimeoutError: the first rank does not answer.
    """
    if rank == 0:
        number = int(store.add("rounds", 1))
        # A connection of its own: a wait on this one would block the others.
        arguments = (store.clone(), number, world_size - 1)
        threading.Thread(target=_admit, args=arguments).start()
        return number
    # NOTE: a rank may ask before the first rank of its round has started, and requests of failed
    # rounds may still be in the store; so every request has a number and gets its own answer.
    request = store.add("requests", 1)
    wait_for_key(store, f"admitted/{request}", WELCOME_SECONDS)
    number = int(store.get(f"admitted/{request}"))
    store.add(f"joined/{number}", 1)
    return number


def wait_for_key(store: Any, key: str, seconds: float) -> None:
    """Return when `key` is set.

    It polls: a blocking wait would keep the connection from other threads, and would not notice
    that the machine of the store is gone.

    Raises:
        TimeoutError: it is not set after this many seconds.
    """
    give_up = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"the first rank did not answer for {seconds:.0f} seconds (waiting for {key!r});"
                " run the same command again to resume"
            )
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of the key-value store into a ConnectionError with a remedy."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"the launcher's key-value store does not answer ({reason}): its process or machine has"
            " ended; run the same command again to resume"
        ) from error


def start_heartbeat(store: Any, rank: int) -> None:
    """Send heartbeats until the main thread ends; `store` is a connection of its own."""
    threading.Thread(target=_beat, args=(store, rank)).start()


class HeartbeatMonitor:
    """Watches the heartbeats of the ranks that are waited for."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._heard: dict[int, tuple[int, float]] = {}  # rank -> beats, and when they last grew

    def check(self, ranks: Iterable[int]) -> None:
        """Raise TimeoutError when one of them has been silent for LOST_SECONDS."""
        now = time.monotonic()
        for rank in ranks:
            beats = int(self._store.add(f"beat/{rank}", 0))
            before, since = self._heard.get(rank, (-1, now))
            if beats != before:
                self._heard[rank] = (beats, now)
            elif now - since > LOST_SECONDS:
                raise TimeoutError(
                    f"rank {rank} has sent no heartbeat for {LOST_SECONDS:.0f} seconds: its machine"
                    " may be gone; run the same command again, which redoes only the unit that rank"
                    " was computing"
                )


def _admit(store: Any, number: int, num_others: int) -> None:
    """Answer requests until all other ranks of this round have joined, or this process ends.

    NOTE: no daemon thread, which the end of the program would catch in C, and abort.
    """
    answered = 0
    is_running = threading.main_thread().is_alive
    with contextlib.suppress(ConnectionError), store_errors():
        while is_running() and store.add(f"joined/{number}", 0) < num_others:
            requests = store.add("requests", 0)
            for request in range(answered + 1, requests + 1):
                store.set(f"admitted/{request}", str(number))
            answered = requests
            time.sleep(_POLL_SECONDS)


def _beat(store: Any, rank: int) -> None:
    """NOTE: no daemon thread, which the end of the program would catch in C, and abort."""
    is_running = threading.main_thread().is_alive
    due = time.monotonic()
    with contextlib.suppress(ConnectionError), store_errors():
        while is_running():
            if time.monotonic() >= due:
                store.add(f"beat/{rank}", 1)
                due = time.monotonic() + BEAT_SECONDS
            time.sleep(_WAKE_SECONDS)
