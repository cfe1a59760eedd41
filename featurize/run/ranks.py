"""The processes that share one run: who takes which unit, and how far all of them are."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from featurize.run.heartbeat import SilenceWatch, start_beating
from featurize.run.rendezvous import join_round, store_errors, wait_for_key

WAIT_SECONDS = 12 * 3600.0
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
        """Reads RANK and WORLD_SIZE, which the launcher sets; without them, one rank.

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
                    start_beating(self._store.clone(), self.rank)

    @property
    def is_first(self) -> bool:
        """Whether this rank plans, reports and writes the manifest."""
        return self.rank == 0

    def count(self, name: str, amount: int = 0) -> int:
        """Adds to a counter all ranks share and returns its new value."""
        if self._store is not None:
            with store_errors():
                return int(self._store.add(name, amount))
        self._counters[name] = self._counters.get(name, 0) + amount
        return self._counters[name]

    def claim(self) -> int:
        """The next number nobody else gets: 0, 1, 2, ..."""
        return self.count("claimed", 1) - 1

    def tell(self, name: str, value: Any) -> None:
        """Gives a value (JSON) a name under which the other ranks hear it."""
        with store_errors():
            self._store.set(name, json.dumps(value))

    def hear(self, name: str) -> Any:
        """What another rank tells under this name; waits for it."""
        with store_errors():
            wait_for_key(self._store, name, WAIT_SECONDS)
            return json.loads(self._store.get(name))

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns on the first rank (JSON), on every rank."""
        if self._store is None:
            return make()
        if not self.is_first:
            return self.hear(name)
        value = make()
        self.tell(name, value)
        return value

    def wait_for_all(self, name: str) -> None:
        """On the first rank, returns when every rank has come here; the others go on.

        Raises:
            TimeoutError: one that has not come gives no sign of life.
        """
        if self._store is None:
            return
        if not self.is_first:
            self.tell(f"{name}/{self.rank}", True)
            return
        missing = list(range(1, self.world_size))
        watch = SilenceWatch(self._store)
        with store_errors():
            while missing := [r for r in missing if not self._store.check([f"{name}/{r}"])]:
                watch.check(missing)
                time.sleep(0.05)

    def store_for(self, name: str) -> Any:
        """A corner of the job's key-value store for torch's own process groups.

        On a connection of its own: they wait within C, and keep whom they share it with waiting.
        """
        from torch.distributed.distributed_c10d import PrefixStore

        return PrefixStore(name, self._store.clone())
