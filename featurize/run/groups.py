"""Groups of ranks that hold one backbone together and work as one."""

import contextlib
import itertools
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from featurize.model.sharing import Sharing
from featurize.run.ranks import Ranks

COLLECTIVE = timedelta(hours=2)
"""How long a rank waits within a forward pass: loading a large backbone takes its time."""


class RankGroup:
    """The ranks this one shares a backbone with; alone, where each holds a whole one.

    Every forward pass is a collective, so all ranks of a group take the same units, in the same
    order, and come to the end together. The first of them, its leader, claims and writes.
    """

    def __init__(self, ranks: Ranks, sharing: Sharing) -> None:
        """Groups are made of neighbouring ranks, which a launcher puts on one machine."""
        self.ranks = ranks
        self.sharing = sharing
        self.number, self.place = divmod(ranks.rank, sharing.size)
        self._claims = itertools.count()

    @property
    def is_leader(self) -> bool:
        """Whether this rank claims units and writes them."""
        return self.place == 0

    def claim(self) -> int:
        """The next number no other group gets, the same on all ranks of this one."""
        if not self.sharing.is_shared:
            return self.ranks.claim()
        name = f"group-{self.number}/claim-{next(self._claims)}"
        if not self.is_leader:
            return int(self.ranks.hear(name))
        claimed = self.ranks.claim()
        self.ranks.tell(name, claimed)
        return claimed

    def connect(self, device: torch.device) -> None:
        """Opens torch's process group of these ranks alone, where there are others."""
        if not self.sharing.is_shared:
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=self.ranks.store_for(f"group-{self.number}"),
            rank=self.place,
            world_size=self.sharing.size,
            timeout=COLLECTIVE,
            device_id=device if device.type == "cuda" else None,
        )

    @contextlib.contextmanager
    def tells_of_lost_ranks(self) -> Iterator[None]:
        """Says in a sentence that another rank of the group has ended within a forward pass."""
        try:
            yield
        except RuntimeError as error:
            # NCCL's errors have a class; gloo's only name its source files.
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise ConnectionError(
                f"a rank that shares the backbone with rank {self.ranks.rank} has ended"
                f" ({str(error).partition(chr(10))[0]}); run the same command again to go on"
            ) from error

    def disconnect(self) -> None:
        """Closes it; only after work that went well, for it waits for the others."""
        if self.sharing.is_shared:
            dist.destroy_process_group()
