"""The processes that share one run: who takes which unit, and how far all of them are."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

WAIT = timedelta(hours=12)
"""How long a rank waits for another one's word; a dead rank is noticed by the launcher."""

CONNECT = timedelta(seconds=30)
"""How long a rank looks for the launcher's store, which is there before the rank is: a worker whose
launcher was killed meanwhile must not outlive it."""


class Ranks:
    """This process alone, or one of those that `torch.distributed.run` started.

    Work is handed out by a counter in the job's own key-value store: no collective, so that a slow
    rank holds nobody up. Under an elastic restart the counter starts anew, and so does the list of
    finished units it counts through.
    """

    def __init__(self) -> None:
        """Reads RANK and WORLD_SIZE, which the launcher sets; without them, one rank."""
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._store: Any = None
        self._counters: dict[str, int] = {}
        if self.world_size > 1:
            from torch.distributed.rendezvous import rendezvous

            self._store, _, _ = next(iter(rendezvous("env://", timeout=CONNECT)))
            self._store.set_timeout(WAIT)

    @property
    def is_first(self) -> bool:
        """Whether this rank plans, reports and writes the manifest."""
        return self.rank == 0

    def count(self, name: str, amount: int = 0) -> int:
        """Adds to a counter all ranks share and returns its new value."""
        if self._store is not None:
            return int(self._store.add(name, amount))
        self._counters[name] = self._counters.get(name, 0) + amount
        return self._counters[name]

    def claim(self) -> int:
        """The next number nobody else gets: 0, 1, 2, ..."""
        return self.count("claimed", 1) - 1

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns on the first rank (JSON), on every rank."""
        if self._store is None:
            return make()
        if self.is_first:
            value = make()
            self._store.set(name, json.dumps(value))
            return value
        return json.loads(self._store.get(name))

    def wait_for_all(self, name: str) -> None:
        """On the first rank, returns when every rank has come here; the others go on."""
        arrived = self.count(name, 1)
        while self.is_first and arrived < self.world_size:
            time.sleep(0.05)
            arrived = self.count(name)
