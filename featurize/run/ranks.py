"""The processes of one run: they share out the units and count their progress."""

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from featurize.model.device import use_device
from featurize.model.sharing import Sharing

WAIT_SECONDS = 12 * 3600.0
"""How long a rank waits for a value of another; the launcher notices a dead rank."""

CONNECT = timedelta(seconds=30)
"""Timeout for the launcher's store, which is there before the rank: a worker must not outlive a
launcher that was killed meanwhile."""

LOADING = timedelta(hours=2)
"""Timeout of a collective while a backbone is loaded, which takes long."""

COLLECTIVE = timedelta(minutes=10)
"""Timeout of a collective of a forward pass: longer than a rank takes to read its next unit."""

WELCOME_SECONDS = 300.0
"""How long a rank waits to be admitted; the first rank starts at the same time."""

BEAT_SECONDS = 10.0
"""Time between two heartbeats."""

LOST_SECONDS = 300.0
"""A rank without a heartbeat for this long is given up; networks may stall for minutes."""

_POLL_SECONDS = 0.02
_WAKE_SECONDS = 0.2  # the end of the program waits this long for the thread


# --- how the ranks of one start find each other, and notice when one of them is gone
#
# An elastic launcher gives restarted ranks the key-value store of the ranks that died, counters and
# all, and the number of restarts does not tell the starts apart: each machine counts its own
# failures. So the first rank opens a new round and admits the others. A launcher sees a process
# die, but not another machine vanish, so every rank sends a heartbeat.


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
    try:
        yield
    except dist.DistError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"the launcher's key-value store does not answer ({reason}): its process or machine has"
            " ended; run the same command again to resume"
        ) from error


def start_heartbeat(store: Any, rank: int) -> None:
    """Send heartbeats until the main thread ends; `store` is a connection of its own."""
    threading.Thread(target=_beat, args=(store, rank)).start()


def _check_heartbeats(
    store: Any, ranks: Iterable[int], heard: dict[int, tuple[int, float]]
) -> None:
    """Raise TimeoutError when a rank has been silent for LOST_SECONDS.

    `heard` has the heartbeats of a rank so far, and when they last grew.
    """
    now = time.monotonic()
    for rank in ranks:
        beats = int(store.add(f"beat/{rank}", 0))
        before, since = heard.get(rank, (-1, now))
        if beats != before:
            heard[rank] = (beats, now)
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


# --- the ranks, and groups of them that share one backbone


class Ranks:
    """This process alone, or one of those that `torch.distributed.run` started.

    A counter in the job's key-value store hands out the work: there is no collective, so a slow
    rank delays no other. After an elastic restart the counter and the list of pending units start
    afresh.
    """

    def __init__(self) -> None:
        """Read RANK and WORLD_SIZE, which the launcher sets; without them there is one rank.

        Raises:
            OSError: the launcher's store or the first rank does not answer.
        """
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world_size)))
        self._store: Any = None
        self._counters: dict[str, int] = {}
        if self.world_size > 1:
            from torch.distributed.rendezvous import rendezvous

            with store_errors():
                store, _, _ = next(iter(rendezvous("env://", timeout=CONNECT)))
                number = join_round(store, self.rank, self.world_size)
                self._store = PrefixStore(f"round-{number}", store)
                if not self.is_first:
                    start_heartbeat(self._store.clone(), self.rank)

    @property
    def is_first(self) -> bool:
        """Whether this rank plans, reports and writes the manifest."""
        return self.rank == 0

    def count(self, name: str, amount: int = 0) -> int:
        """Add to a counter of all ranks and return its new value."""
        if self._store is not None:
            with store_errors():
                return int(self._store.add(name, amount))
        self._counters[name] = self._counters.get(name, 0) + amount
        return self._counters[name]

    def claim(self) -> int:
        """Claim the next number, unique among all ranks: 0, 1, 2, ..."""
        return self.count("claimed", 1) - 1

    def set_value(self, name: str, value: Any) -> None:
        """Set a named value (JSON) for the other ranks."""
        with store_errors():
            self._store.set(name, json.dumps(value))

    def get_value(self, name: str) -> Any:
        """Get a named value of another rank; waits for it."""
        with store_errors():
            wait_for_key(self._store, name, WAIT_SECONDS)
            return json.loads(self._store.get(name))

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        """The value (JSON) that `make` returns on the first rank, on every rank."""
        if self._store is None:
            return make()
        if not self.is_first:
            return self.get_value(name)
        value = make()
        self.set_value(name, value)
        return value

    def wait_for_all(self, name: str) -> None:
        """On the first rank, wait until every rank has called this; the others return at once.

        Raises:
            TimeoutError: a missing rank has stopped sending heartbeats.
        """
        if self._store is None:
            return
        if not self.is_first:
            self.set_value(f"{name}/{self.rank}", True)
            return
        missing = list(range(1, self.world_size))
        heard: dict[int, tuple[int, float]] = {}
        with store_errors():
            while missing := [r for r in missing if not self._store.check([f"{name}/{r}"])]:
                _check_heartbeats(self._store, missing, heard)
                time.sleep(0.05)

    def store_for(self, name: str) -> Any:
        """A prefix of the job's key-value store for torch's own process groups.

        On a connection of its own: they wait in C and would block whoever shares it.
        """
        return PrefixStore(name, self._store.clone())


class RankGroup:
    """The ranks that share a backbone with this one; alone if each rank holds a whole one.

    Every forward pass is a collective, so all ranks of a group take the same units in the same
    order. The first of them, the leader, claims units and writes them.
    """

    def __init__(self, ranks: Ranks, sharing: Sharing) -> None:
        """Group neighbouring ranks, which a launcher puts on one machine."""
        self.ranks = ranks
        self.sharing = sharing
        self.number, self.place = divmod(ranks.rank, sharing.size)
        self._claims = itertools.count()

    @property
    def is_leader(self) -> bool:
        """Whether this rank claims units and writes them."""
        return self.place == 0

    def claim(self) -> int:
        """Claim the next unit; the same number on all ranks of the group."""
        if not self.sharing.is_shared:
            return self.ranks.claim()
        name = f"group-{self.number}/claim-{next(self._claims)}"
        if not self.is_leader:
            return int(self.ranks.get_value(name))
        claimed = self.ranks.claim()
        self.ranks.set_value(name, claimed)
        return claimed

    def connect(self, device: torch.device) -> None:
        """Bind this rank to its device, and open torch's process group if it shares a backbone."""
        use_device(device)
        if not self.sharing.is_shared:
            return
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=self.ranks.store_for(f"group-{self.number}"),
            rank=self.place,
            world_size=self.sharing.size,
            timeout=LOADING,
            device_id=device if device.type == "cuda" else None,
        )

    def loaded(self) -> None:
        """Lower the timeout, so that a machine lost during a forward pass is noticed.

        NOTE: torch has no public function for this; the mesh of one group of ranks, by which
        transformers shares a backbone, uses the same process group.
        """
        if self.sharing.is_shared:
            dist.distributed_c10d._set_pg_timeout(COLLECTIVE)

    @contextlib.contextmanager
    def reports_lost_ranks(self) -> Iterator[None]:
        """Turn the end of another rank during a forward pass into a ConnectionError."""
        try:
            yield
        except RuntimeError as error:
            # NCCL's errors have a class; gloo's only mention its source files.
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise ConnectionError(
                f"a rank that shares the backbone with rank {self.ranks.rank} has ended"
                f" ({str(error).partition(chr(10))[0]}); run the same command again to resume"
            ) from error

    def disconnect(self) -> None:
        """Close the process group; waits for the others, so only after success."""
        if self.sharing.is_shared:
            dist.destroy_process_group()
