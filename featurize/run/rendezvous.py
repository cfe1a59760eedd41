"""Tells ranks that were started together from those of an earlier start that failed.

An elastic launcher gives restarted ranks the key-value store of the ones that died, counters and
all. The number of restarts does not tell the rounds apart: each machine counts its own failures.
So the first rank opens a new round and lets the others in.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

WELCOME_SECONDS = 300.0
"""How long a rank waits to be let in: the first rank starts at the same time."""

_POLL_SECONDS = 0.02


def join_round(store: Any, rank: int, world_size: int) -> int:
    """The number of the round this rank belongs to, the same for all ranks started with it.

    Ranks of earlier rounds are dead when a new one starts: the launcher sees to that.

    Raises:
        TimeoutError: the first rank is not there.
    """
    if rank == 0:
        number = int(store.add("rounds", 1))
        # A connection of its own: what waits on this one would keep the others out.
        arguments = (store.clone(), number, world_size - 1)
        threading.Thread(target=_let_in, args=arguments).start()
        return number
    # NOTE: a rank may knock before the first rank of its round is there, and its knocks of rounds
    # that failed may still lie about; so every knock has a number of its own and gets an answer.
    knock = store.add("knocks", 1)
    wait_for_key(store, f"welcome/{knock}", WELCOME_SECONDS)
    number = int(store.get(f"welcome/{knock}"))
    store.add(f"joined/{number}", 1)
    return number


def wait_for_key(store: Any, key: str, seconds: float) -> None:
    """Returns when `key` is there.

    It asks again and again: a blocking wait would keep the connection from other threads, and would
    not notice that the machine of the store is gone.

    Raises:
        TimeoutError: it is not there after so many seconds.
    """
    give_up = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"the first rank said nothing for {seconds:.0f} seconds (waiting for {key!r}); run"
                " the same command again to go on"
            )
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Says in a sentence that the launcher's store is gone."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"the launcher's key-value store does not answer ({reason}): its process or machine has"
            " ended; run the same command again to go on"
        ) from error


def _let_in(store: Any, number: int, num_others: int) -> None:
    """Answers knocks until all other ranks of this round have come in, or this one ends.

    NOTE: no daemon thread, which the end of the program would catch within C, and abort.
    """
    answered = 0
    is_running = threading.main_thread().is_alive
    with contextlib.suppress(ConnectionError), store_errors():
        while is_running() and store.add(f"joined/{number}", 0) < num_others:
            knocks = store.add("knocks", 0)
            for knock in range(answered + 1, knocks + 1):
                store.set(f"welcome/{knock}", str(number))
            answered = knocks
            time.sleep(_POLL_SECONDS)
