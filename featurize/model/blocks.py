"""Faster blocks of a backbone: packed and sliced ones on a CPU, compiled ones on a GPU.

On a CPU the weights of a float32 backbone are stored in the layout of oneDNN's products, and a long
sequence passes through an MLP in slices, so its activations stay in the cache.

NOTE: that gain is a few per cent (tests/benchmarks/bench_featurize.py). These stay because plain
layers sum in another order: features in float32 would differ in the last bits from stored ones.
"""

import importlib.util
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from featurize.model import likelihood
from featurize.model.attention import SHARED_PROMPT, shared_prompt_attention

_SLICE = 512
"""Tokens per slice: long enough for the products, short enough for the cache of a core."""


class PackedLinear(nn.Module):
    """A frozen float32 `nn.Linear` whose weight is stored in oneDNN's layout only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _SLICE)

    @property
    def weight(self) -> Tensor:
        """A plain copy, [out_features, in_features], for models that look at it."""
        plain: Tensor = self._packed.to_dense()
        return plain

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden.contiguous(), self._packed, self.bias, "none", [], ""
        )
        return product


def can_pack() -> bool:
    """Whether this torch has the operators, which are not public, on a processor they suit."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in names)
    )


def speed_up(blocks: nn.ModuleList) -> None:
    """Pack every linear layer of the blocks, its own weight freed, and slice every dense MLP.

    For backbones that are whole, frozen and in float32 on a CPU; other layers stay as they are.
    """
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(module, name, PackedLinear(child))
    for block in blocks:
        mlp = getattr(block, "mlp", None)
        if mlp is not None and _is_dense(mlp):
            block.mlp = SlicedMLP(mlp)


class SlicedMLP(nn.Module):
    """An MLP that sees a long sequence slice by slice; each token has its own result anyway."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        """[batch, tokens, hidden] -> the same; anything else goes through whole."""
        size = max(_SLICE // max(hidden.shape[0], 1), 1)
        if others or named or hidden.ndim != 3 or hidden.shape[1] <= size:
            found: Tensor = self.mlp(hidden, *others, **named)
            return found
        return torch.cat([self.mlp(part) for part in hidden.split(size, dim=1)], dim=1)


def _is_dense(mlp: nn.Module) -> bool:
    """Whether all its weights are those of a few packed layers: no experts, no router."""
    children = list(mlp.children())
    has_products = sum(isinstance(child, PackedLinear) for child in children) >= 2
    others = [child for child in children if not isinstance(child, PackedLinear)]
    own = list(mlp.parameters(recurse=False))
    return has_products and not own and not any(list(child.parameters()) for child in others)


MIN_CAPABILITY = (7, 0)
"""Oldest compute capability of Triton, in which the fused operators are written."""

MIN_TORCH = (2, 13)
"""Oldest torch that does not recompile for every pack: 2.11 compares the bounds of each."""


def why_not_compiled(device: torch.device, *, is_shared: bool, is_quantized: bool) -> str | None:
    """Return why compiled blocks would not help, or could not run; None if they may."""
    if device.type != "cuda":
        return f"it saves launches of GPU kernels, and the backbone runs on {device.type}"
    if is_shared:
        return "a backbone shared among devices gathers its layers between the operators"
    if is_quantized:
        return "quantized weights have their own matrix products"
    if torch_version() < MIN_TORCH:
        return f"torch {torch.__version__} would recompile for every pack; install 2.13 or later"
    if importlib.util.find_spec("triton") is None:
        return "the library triton is missing"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return "the compute capability of the device is below 7.0"
    return None


def torch_version() -> tuple[int, ...]:
    """Return the first two numbers of the version of torch."""
    return tuple(map(int, torch.__version__.split(".")[:2]))


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
