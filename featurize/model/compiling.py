"""Compiled blocks and likelihood: torch.compile fuses small operators between large products."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from featurize.model import likelihood
from featurize.model.agreement import TOLERANCE, largest_difference, probe_features
from featurize.model.attention import SHARED_PROMPT, shared_prompt_attention
from featurize.model.backbone import Backbone
from featurize.model.engine import Forward
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup

MIN_CAPABILITY = (7, 0)
"""Oldest compute capability of Triton, in which the fused operators are written."""

MIN_TORCH = (2, 13)
"""Oldest torch that does not compile anew for every pack: 2.11 compares the bounds of each."""


def why_not_compiled(device: torch.device, *, is_shared: bool, is_quantized: bool) -> str | None:
    """Return why compiled blocks would not help, or could not run; None if they may.

    Args:
        device: of the backbone.
        is_shared: whether several ranks hold one backbone.
        is_quantized: whether its weights are quantized while loading.
    """
    if device.type != "cuda":
        return f"it saves launches of GPU kernels, and the backbone runs on {device.type}"
    if is_shared:
        return "a backbone shared among devices gathers its layers between the operators"
    if is_quantized:
        return "the products of quantized weights are operators of their own"
    if torch_version() < MIN_TORCH:
        return f"torch {torch.__version__} would compile anew for every pack; install 2.13 or later"
    if importlib.util.find_spec("triton") is None:
        return "the library triton is missing"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return "the compute capability of the device is below 7.0"
    return None


def torch_version() -> tuple[int, ...]:
    """Return the first two numbers of the version of torch."""
    return tuple(map(int, torch.__version__.split(".")[:2]))


def compile_if_it_agrees(
    backbone: Backbone,
    spec: FeatureSpec,
    forward: Forward,
    groups: Sequence[PromptGroup],
    dtype: torch.dtype,
) -> str:
    """Compile the blocks unless that changes features by more than another batch does.

    Returns:
        What was done, and why, in one sentence.
    """
    plain = probe_features(backbone, spec, forward, groups)
    undo = compile_blocks(backbone.blocks)
    difference = largest_difference(probe_features(backbone, spec, forward, groups), plain)
    if difference <= TOLERANCE[dtype]:
        return f"compiled blocks: they agree with the plain ones to {difference:.1e}"
    undo()
    return f"plain blocks: compiled ones differ from them by {difference:.1e}"


def compile_blocks(blocks: nn.ModuleList, backend: str | Callable[..., Any] = "inductor") -> Any:
    """Compile each block, and the likelihood of a chunk, for any number of tokens.

    Returns a function that undoes it. All blocks share what was compiled for the first ones.
    Shared-prompt attention stays as it is: its bounds differ from pack to pack, and the kernel is
    one operator anyway.
    """
    attention = torch.compiler.disable(shared_prompt_attention)
    AttentionInterface.register(SHARED_PROMPT, attention)
    for block in blocks:
        # NOTE: not block.compile(), which would compile the hooks that pool hidden states as well.
        block.forward = torch.compile(block.forward, dynamic=True, backend=backend)
    likelihood.of_tokens = torch.compile(likelihood.plain_of_tokens, dynamic=True, backend=backend)

    def undo() -> None:
        likelihood.of_tokens = likelihood.plain_of_tokens
        for block in blocks:
            del block.forward
        AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)

    return undo
