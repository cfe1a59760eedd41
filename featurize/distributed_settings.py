"""The settings of a backbone that does not fit a device: how it lies on several of them."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT_KEYS = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class FsdpSettings:
    """How a backbone is sharded over devices; read only with shard_backbone."""

    sharding_strategy: Literal[
        "FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"
    ] = "FULL_SHARD"
    """FULL_SHARD gathers a layer while it runs; HYBRID_SHARD does so within each machine."""

    group_size: PositiveInt | None = None
    """Devices that hold one backbone together; null: all, or with HYBRID_SHARD a machine's."""

    mixed_precision: bool = True
    """Lets dtype auto choose 16 bits, as runtime.mixed_precision does; false: 32 bits."""

    cpu_offload: bool = False
    """Keep the shards in host memory; means nothing on the CPU."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass; a frozen backbone has none."""

    def __post_init__(self) -> None:
        if self.group_size is not None and not self.shards_all:
            raise ValueError(
                f"group_size {self.group_size} and sharding_strategy {self.sharding_strategy!r} "
                "contradict: that strategy knows its groups; set group_size to null"
            )

    @property
    def shards_all(self) -> bool:
        """Whether a group may be any number of devices, on one machine or several."""
        return self.sharding_strategy in ("FULL_SHARD", "SHARD_GRAD_OP")


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DistributedSettings:
    """How the backbone lies on the devices; the samples are always shared out among the ranks."""

    shard_backbone: bool = False
    """Shard the backbone over devices as `fsdp` says, for one that does not fit a device."""

    tensor_parallel_size: PositiveInt = 1
    """Devices that compute each layer together, for a backbone that does not fit a device."""

    max_restarts: Annotated[int, Field(ge=0)] = 0
    """Times all processes are started anew after one died; torchrun has an option of its own."""

    fsdp: FsdpSettings | None = None
    """How shard_backbone shards; null: its defaults."""

    def __post_init__(self) -> None:
        if self.shard_backbone and self.tensor_parallel_size > 1:
            raise ValueError(
                f"shard_backbone true and tensor_parallel_size {self.tensor_parallel_size} "
                "contradict: a backbone is cut one way or the other; set shard_backbone to false "
                "or tensor_parallel_size to 1"
            )

    @property
    def is_shared(self) -> bool:
        """Whether a backbone may lie on several devices."""
        return self.shard_backbone or self.tensor_parallel_size > 1

    @property
    def mixed_precision(self) -> bool:
        """Whether dtype auto may choose 16 bits, as far as `fsdp` has a say."""
        return not self.shard_backbone or self.fsdp is None or self.fsdp.mixed_precision
