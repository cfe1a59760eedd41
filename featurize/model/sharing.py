"""Shares a backbone among devices: tensor parallelism within layers, or FSDP shards."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedConfig, PreTrainedModel

from featurize.errors import CriticError
from featurize.settings import DistributedSettings, FsdpSettings


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Each group of `size` ranks holds one backbone; all ranks of a group run the same batches."""

    kind: Literal["whole", "tensor", "fsdp"] = "whole"
    size: int = 1
    frees_layers: bool = True  # fsdp: free a gathered layer after it has run
    offloads: bool = False  # fsdp: keep the shards in host memory

    @property
    def is_shared(self) -> bool:
        """Whether several ranks hold one backbone."""
        return self.size > 1


WHOLE = Sharing()
"""Every rank holds the whole backbone."""


def plan_sharing(settings: DistributedSettings, world_size: int, local_size: int) -> Sharing:
    """Decide how `world_size` ranks, `local_size` of them per machine, hold the backbone.

    Raises:
        CriticError: the number of ranks is no multiple of the group size.
    """
    fsdp = settings.fsdp or FsdpSettings()
    is_hybrid = settings.shard_backbone and fsdp.sharding_strategy.startswith("HYBRID")
    size = group_size(settings) or (local_size if is_hybrid else world_size)
    if world_size % size:
        key = "tensor_parallel_size" if settings.tensor_parallel_size > 1 else "fsdp"
        raise CriticError(
            f"{world_size} processes do not form groups of {size}, which distributed.{key}"
            f" requires; start a multiple of {size} (critic featurize --nproc-per-node, torchrun)"
        )
    if settings.tensor_parallel_size > 1:
        return Sharing(kind="tensor", size=size)
    if not settings.shard_backbone or size == 1:
        return WHOLE
    return Sharing(
        kind="fsdp",
        size=size,
        frees_layers=fsdp.sharding_strategy in ("FULL_SHARD", "HYBRID_SHARD"),
        offloads=fsdp.cpu_offload,
    )


def group_size(settings: DistributedSettings) -> int | None:
    """Return how many ranks hold one backbone; None: all ranks, or all of a machine."""
    if not settings.shard_backbone:
        return settings.tensor_parallel_size
    fsdp = settings.fsdp or FsdpSettings()
    return 1 if fsdp.sharding_strategy == "NO_SHARD" else fsdp.group_size


def check_tensor_parallel(config: PreTrainedConfig, size: int) -> None:
    """Raise CriticError if the layers cannot be cut into `size` parts; needs no weights."""
    if size == 1:
        return
    key = f"distributed.tensor_parallel_size {size}"
    plan = getattr(config, "base_model_tp_plan", None) or {}
    if not plan:
        raise CriticError(
            f"{key}: transformers has no tensor-parallel plan for a {config.model_type} model;"
            " set distributed.shard_backbone to true instead"
        )
    cut = {name.rpartition(".")[2] for name, style in plan.items() if style == "colwise"}
    heads = {}
    if cut & {"q_proj", "q_b_proj", "qkv_proj", "query_key_value"}:
        heads["attention heads"] = config.num_attention_heads
    if cut & {"k_proj", "qkv_proj", "query_key_value"}:
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        heads["key/value heads"] = kv_heads
    for name, number in heads.items():
        if isinstance(number, int) and number % size:
            choices = [n for n in range(2, number + 1) if not any(h % n for h in heads.values())]
            remedy = f"one of {choices}, or" if choices else "1 and"
            raise CriticError(
                f"{key} does not divide the backbone's {number} {name}; set it to {remedy}"
                " distributed.shard_backbone to true"
            )


def to_distributed_config(sharing: Sharing, device: torch.device) -> Any:
    """Translate into transformers' settings; the process group must span the ranks of one group.

    Raises:
        CriticError: transformers would use another device than the run, or is too old.
    """
    accelerator = torch.accelerator.current_accelerator()
    if device.type == "cpu" and torch.accelerator.is_available() and accelerator is not None:
        raise CriticError(
            "runtime.device cpu and a shared backbone contradict on a machine with a"
            f" {accelerator.type!r} device, which transformers would use; set runtime.device to"
            " auto"
        )
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        if sharing.kind == "tensor":
            return DistributedConfig(tp_size=sharing.size)
        # On the CPU the shards are in host memory anyway.
        offloads = sharing.offloads and device.type != "cpu"
        return DistributedConfig(fsdp_size=sharing.size, fsdp_cpu_offload=offloads)
    except (ImportError, TypeError) as error:
        raise CriticError(
            "this version of transformers cannot share a backbone among devices"
            f" ({type(error).__name__}: {error}); install transformers 5.17 or later"
        ) from error


def cut_config(config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
    """Return the config of the first layers; the weights of the others are then not read."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    whole = text.num_hidden_layers
    if num_layers >= whole:
        return config
    text.num_hidden_layers = num_layers
    for name, value in vars(text).items():
        if isinstance(value, list | tuple) and len(value) == whole:  # layer_types and similar
            setattr(text, name, value[:num_layers])
    return config


def distribute(model: PreTrainedModel, sharing: Sharing, device: torch.device) -> PreTrainedModel:
    """Cut a model whose parameters are on the meta device; `place` then gives them values."""
    config = to_distributed_config(sharing, device)
    config, _, mesh = type(model).prepare_distribute_model(config)
    shared: PreTrainedModel = type(model).maybe_distribute_model(model, config, mesh)
    return shared


def place(tensor: Tensor, parameter: Tensor, device: torch.device) -> Tensor:
    """Return this rank's part of `tensor`, distributed like `parameter`."""
    if not isinstance(parameter, DTensor):
        return tensor.to(device)
    # Every rank has read the tensor, so nothing is sent.
    return distribute_tensor(
        tensor.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def finish_sharing(model: nn.Module, sharing: Sharing) -> None:
    """Keep gathered layers in memory if the strategy says so."""
    for module in model.modules():
        if isinstance(module, FSDPModule) and not sharing.frees_layers:
            module.set_reshard_after_forward(False, recurse=False)
