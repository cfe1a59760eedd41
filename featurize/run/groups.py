"""Groups of ranks that share one backbone."""

import contextlib
import itertools
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from featurize.model.device import use_device
from featurize.model.sharing import Sharing
from featurize.run.ranks import Ranks

LOADING = timedelta(hours=2)
"""Timeout of a collective while a backbone is loaded, which takes long."""

COLLECTIVE = timedelta(minutes=10)
"""Timeout of a collective of a forward pass: longer than a rank takes to read its next unit."""


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
            return int(self.ranks.hear(name))
        claimed = self.ranks.claim()
        self.ranks.tell(name, claimed)
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
