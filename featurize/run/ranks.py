"""The processes of one run: they share out the units and count their progress."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from featurize.run.rendezvous import (
    HeartbeatMonitor,
    join_round,
    start_heartbeat,
    store_errors,
    wait_for_key,
)

WAIT_SECONDS = 12 * 3600.0
"""How long a rank waits for a value of another; the launcher notices a dead rank."""

CONNECT = timedelta(seconds=30)
"""Timeout for the launcher's store, which is there before the rank: a worker must not outlive a
launcher that was killed meanwhile."""


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
            from torch.distributed.distributed_c10d import PrefixStore
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

    def tell(self, name: str, value: Any) -> None:
        """Set a named value (JSON) for the other ranks."""
        with store_errors():
            self._store.set(name, json.dumps(value))

    def hear(self, name: str) -> Any:
        """Get a named value of another rank; waits for it."""
        with store_errors():
            wait_for_key(self._store, name, WAIT_SECONDS)
            return json.loads(self._store.get(name))

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        """The value (JSON) that `make` returns on the first rank, on every rank."""
        if self._store is None:
            return make()
        if not self.is_first:
            return self.hear(name)
        value = make()
        self.tell(name, value)
        return value

    def wait_for_all(self, name: str) -> None:
        """On the first rank, wait until every rank has called this; the others return at once.

        Raises:
            TimeoutError: a missing rank has stopped sending heartbeats.
        """
        if self._store is None:
            return
        if not self.is_first:
            self.tell(f"{name}/{self.rank}", True)
            return
        missing = list(range(1, self.world_size))
        monitor = HeartbeatMonitor(self._store)
        with store_errors():
            while missing := [r for r in missing if not self._store.check([f"{name}/{r}"])]:
                monitor.check(missing)
                time.sleep(0.05)

    def store_for(self, name: str) -> Any:
        """A prefix of the job's key-value store for torch's own process groups.

        On a connection of its own: they wait in C and would block whoever shares it.
        """
        from torch.distributed.distributed_c10d import PrefixStore

        return PrefixStore(name, self._store.clone())
