"""Many value heads of one shape computed as one: values forward, gradients by their formulas.

The weights of all heads lie in one block [heads, parameters], their gradients in another, so that a
step costs a few large operations instead of many small ones for each head. The formulas are those
autograd would derive from `HeadModel`; the tests hold the two against each other.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from headtrain.head.model import DIRECT_SPEED, HeadModel

SMALL = 2**14
"""Numbers in a hidden layer up to which oneDNN's GELU, 20 and 50 us a call, starts too slowly."""


class Masks(NamedTuple):
    """What dropout multiplies the two hidden layers with: 0, or 1 / (1 - dropout)."""

    first: torch.Tensor  # [*heads, rows, first hidden]
    second: torch.Tensor  # [*heads, rows, second hidden]


class _Passed(NamedTuple):
    """What the way back needs of the way there."""

    inputs: torch.Tensor  # [*heads, rows, width]
    direct: torch.Tensor | None  # [*heads, rows, columns that lead straight to the value]
    weights: tuple[torch.Tensor, ...]  # in the dtype of the products, the first one gated
    before: tuple[torch.Tensor, ...]  # hidden layers before GELU
    after: tuple[torch.Tensor, ...]  # hidden layers after GELU and dropout
    masks: Masks | None


class HeadStack:
    """Heads of one shape; `*heads` in a shape is nothing for a single head, else their number.

    The parameters of the models become views of the block: whoever reads a model sees its training.
    """

    def __init__(
        self, models: Sequence[HeadModel], *, product_dtype: torch.dtype = torch.float32
    ) -> None:
        shapes = [{name: p.shape for name, p in m.named_parameters()} for m in models]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"heads of one shape needed, got {shapes}")
        self.models = list(models)
        self.product_dtype = product_dtype
        self.heads = () if len(models) == 1 else (len(models),)
        device = models[0].normaliser.mean.device
        num_parameters = sum(shape.numel() for shape in shapes[0].values())
        self.parameters = torch.empty(len(models), num_parameters, device=device)
        self.gradients = torch.zeros_like(self.parameters)
        self._weights: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, torch.Tensor] = {}
        start = 0
        for name, shape in shapes[0].items():
            place = slice(start, start + shape.numel())
            start += shape.numel()
            weights = self.parameters[:, place].view(len(models), *shape)
            for model, weight in zip(models, weights, strict=True):
                parameter = model.get_parameter(name)
                weight.copy_(parameter.detach())
                parameter.data = weight
            self._weights[name] = weights.view(*self.heads, *shape)
            self._gradients[name] = self.gradients[:, place].view(*self.heads, *shape)
        self._names = [name for name in shapes[0] if name not in ("mix", "direct")]
        self._columns = models[0].column_blocks if "mix" in shapes[0] else None
        self._num_direct = self._weights["direct"].shape[-1] if "direct" in shapes[0] else 0
        is_plain = self._columns is None and product_dtype == torch.float32
        # NOTE: views of the block, made once: a step is so short that making them shows.
        self._plain = tuple(self._weights[name] for name in self._names) if is_plain else None
        self._turned = tuple(weight.mT for weight in self._plain or ())
        self._passed: _Passed | None = None

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Widths of the layers between input and value."""
        return tuple(self._weights[name].shape[-2] for name in self._names[:-1])

    def forward(self, inputs: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Normalised inputs [*heads, rows, width] -> values [*heads, rows] in float32."""
        direct = inputs[..., -self._num_direct :].float() if self._num_direct else None
        weights = self._plain
        if weights is None:
            inputs, weights = inputs.to(self.product_dtype), self._product_weights()
        turned = self._turned or tuple(weight.mT for weight in weights)
        before, after = [], []
        flow = inputs
        for layer, weight in enumerate(turned[:-1]):
            hidden = flow @ weight  # [*heads, rows, hidden]
            with _quick_start(hidden):
                flow = functional.gelu(hidden)
            if masks is not None:
                flow.mul_(masks[layer])
            before.append(hidden)
            after.append(flow)
        values = (flow @ turned[-1]).squeeze(-1).float()
        if direct is not None:
            values += (direct @ (DIRECT_SPEED * self._weights["direct"]).mT).squeeze(-1)
        self._passed = _Passed(inputs, direct, weights, tuple(before), tuple(after), masks)
        return values

    def backward(self, gradient: torch.Tensor, *, accumulate: bool) -> None:
        """From d loss / d values [*heads, rows] of the last forward to `gradients`.

        With h = gelu(z) * mask and z = x W':  dW = dz' x,  dx = dz W,  dz = (dh * mask) * gelu'(z).
        """
        assert self._passed is not None, "forward comes first"
        passed = self._passed
        if passed.direct is not None:
            weighted = DIRECT_SPEED * gradient.unsqueeze(-2)  # [*heads, 1, rows]
            self._put("direct", weighted @ passed.direct, accumulate)
        flow = gradient.to(self.product_dtype).unsqueeze(-1)  # [*heads, rows, 1]
        for layer in range(len(passed.weights) - 1, 0, -1):
            self._add(self._names[layer], flow.mT, passed.after[layer - 1], accumulate)
            weight = passed.weights[layer]
            # NOTE: a product over one column is a multiplication, which costs half as much.
            flow = flow * weight if flow.shape[-1] == 1 else flow @ weight
            if passed.masks is not None:
                flow.mul_(passed.masks[layer - 1])
            with _quick_start(flow):
                flow = torch.ops.aten.gelu_backward(flow, passed.before[layer - 1])
        if self._columns is None:
            self._add(self._names[0], flow.mT, passed.inputs, accumulate)
        else:
            self._add_gated(flow.mT @ passed.inputs, accumulate)
        self._passed = None

    def norms(self) -> torch.Tensor:
        """Length of each head's gradient, [heads]."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.gradients, dim=1)
        return norms

    def _product_weights(self) -> tuple[torch.Tensor, ...]:
        weights = [self._weights[name] for name in self._names]
        if self._columns is not None:
            weights[0] = weights[0] * self._gates()[..., self._columns].unsqueeze(-2)
        return tuple(weight.to(self.product_dtype) for weight in weights)

    def _gates(self) -> torch.Tensor:
        mix = self._weights["mix"]  # [*heads, blocks]
        return mix.softmax(-1) * mix.shape[-1]

    def _add(self, name: str, left: torch.Tensor, right: torch.Tensor, accumulate: bool) -> None:
        gradient = self._gradients[name]
        if self.product_dtype == torch.float32:
            product = torch.baddbmm if self.heads else torch.addmm
            product(gradient, left, right, beta=int(accumulate), out=gradient)
        else:
            self._put(name, left @ right, accumulate)

    def _put(self, name: str, value: torch.Tensor, accumulate: bool) -> None:
        gradient = self._gradients[name]
        if accumulate:
            gradient.add_(value)
        else:
            gradient.copy_(value)

    def _add_gated(self, gated: torch.Tensor, accumulate: bool) -> None:
        """The first layer reads x_c W_c g(c), with g = blocks * softmax(mix) of column c's block.

        So dW_c = d(gated) g and dg = sum of d(gated) W over the block, and through the softmax
        dmix = g * (dg - mean(g * dg)).
        """
        gated = gated.float()
        assert self._columns is not None
        name, gates = self._names[0], self._gates()
        by_column = (gated * self._weights[name]).sum(-2)  # [*heads, width]
        by_gate = torch.zeros_like(gates).index_add_(-1, self._columns, by_column)
        mean = (gates * by_gate).mean(-1, keepdim=True)
        weight_gradient = gated * gates[..., self._columns].unsqueeze(-2)
        self._put(name, weight_gradient, accumulate)
        self._put("mix", gates * (by_gate - mean), accumulate)


@contextlib.contextmanager
def _quick_start(numbers: torch.Tensor) -> Iterator[None]:
    """Without oneDNN where its kernel would take longer to start than torch's own to finish.

    NOTE: the switch is the process's: heads are trained in one thread.
    """
    was_enabled = torch.backends.mkldnn.enabled
    if not was_enabled or numbers.device.type != "cpu" or numbers.numel() > SMALL:
        yield
        return
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
