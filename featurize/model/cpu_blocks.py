"""Linear layers and MLPs of a float32 backbone on a CPU.

Weights are stored in the layout of oneDNN's products, and a long sequence passes through an MLP in
slices, so its activations stay in the cache.

NOTE: the gain is a few per cent (tests/benchmarks/bench_featurize.py). These stay because plain
layers sum in another order: features in float32 would differ in the last bits from stored ones.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

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
