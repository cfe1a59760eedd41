"""Several value heads of one shape computed as one: values, and gradients by explicit formulas.

All weights are in one tensor [heads, parameters] and all gradients in another, so a step is a few
large operations instead of many small ones per head. The formulas are those that autograd derives
from `HeadModel`; tests compare the two.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from headtrain.head.model import DIRECT_SCALE, HeadModel
from headtrain.head.spec import Masks
from headtrain.pairs.rng import mix_seed

ONEDNN_MIN = 2**14
"""Hidden layers up to this size avoid oneDNN's GELU, whose start takes 20 to 50 us per call."""

DROPOUT_LEVELS = 2**16
"""Dropout is a multiple of 1 / this: one random number of 64 bits gives four masked numbers."""


class _Saved(NamedTuple):
    """Activations saved for backward."""

    inputs: torch.Tensor  # [*heads, rows, width]
    direct: torch.Tensor | None  # [*heads, rows, direct columns]
    weights: tuple[torch.Tensor, ...]  # in the dtype of the products, the first one gated
    before: tuple[torch.Tensor, ...]  # hidden layers before GELU
    after: tuple[torch.Tensor, ...]  # hidden layers after GELU and dropout
    masks: Masks | None


class BatchedHeads:
    """Heads of one shape; `*heads` in a shape is empty for a single head, else their number.

    The parameters of the models become views of `parameters`, so the models are trained in place.
    """

    def __init__(
        self, models: Sequence[HeadModel], *, product_dtype: torch.dtype = torch.float32
    ) -> None:
        shapes = [model.spec.shape for model in models]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"the heads of a batch need one shape, got {shapes}")
        self.product_dtype = product_dtype
        self.heads = () if len(models) == 1 else (len(models),)
        self.parameters, self.gradients = share_parameters(models)
        sizes = [parameter.numel() for parameter in models[0].parameters()]
        self._weights: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, torch.Tensor] = {}
        weights, gradients = (x.split(sizes, dim=1) for x in (self.parameters, self.gradients))
        for place, (name, parameter) in enumerate(models[0].named_parameters()):
            self._weights[name] = weights[place].view(*self.heads, *parameter.shape)
            self._gradients[name] = gradients[place].view(*self.heads, *parameter.shape)
        self._layers = [name for name in self._weights if name.startswith("head.")]
        self._blocks = models[0].column_blocks if models[0].spec.mixed_blocks else None
        self._block_widths = list(models[0].spec.mixed_blocks)
        self._num_direct = models[0].spec.num_direct
        self._saved: _Saved | None = None

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Widths of the layers between input and value."""
        return tuple(self._weights[name].shape[-2] for name in self._layers[:-1])

    def forward(self, inputs: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Normalised inputs [*heads, rows, width] -> values [*heads, rows] in float32."""
        direct = inputs[..., -self._num_direct :].float() if self._num_direct else None
        inputs, weights = inputs.to(self.product_dtype), self._product_weights()
        before, after = [], []
        flow = inputs
        for layer, weight in enumerate(weights[:-1]):
            hidden = flow @ weight.mT  # [*heads, rows, hidden]
            with _fast_gelu(hidden):
                flow = functional.gelu(hidden)
            if masks is not None:
                flow.mul_(masks[layer])
            before.append(hidden)
            after.append(flow)
        values = (flow @ weights[-1].mT).squeeze(-1).float()
        if direct is not None:
            values += (direct @ (DIRECT_SCALE * self._weights["direct"]).mT).squeeze(-1)
        self._saved = _Saved(inputs, direct, weights, tuple(before), tuple(after), masks)
        return values

    def backward(self, gradient: torch.Tensor, *, accumulate: bool) -> None:
        """Backpropagate d loss / d values [*heads, rows] of the last forward to `gradients`.

        With h = gelu(z) * mask and z = x W':  dW = dz' x,  dx = dz W,  dz = (dh * mask) * gelu'(z).
        """
        assert self._saved is not None, "forward comes first"
        saved = self._saved
        if saved.direct is not None:
            weighted = DIRECT_SCALE * gradient.unsqueeze(-2)  # [*heads, 1, rows]
            self._put("direct", weighted @ saved.direct, accumulate)
        flow = gradient.to(self.product_dtype).unsqueeze(-1)  # [*heads, rows, 1]
        for layer in range(len(saved.weights) - 1, 0, -1):
            self._add(self._layers[layer], flow.mT, saved.after[layer - 1], accumulate)
            weight = saved.weights[layer]
            # NOTE: a product over one column is a multiplication, at half the cost.
            flow = flow * weight if flow.shape[-1] == 1 else flow @ weight
            if saved.masks is not None:
                flow.mul_(saved.masks[layer - 1])
            with _fast_gelu(flow):
                flow = torch.ops.aten.gelu_backward(flow, saved.before[layer - 1])
        if self._blocks is None:
            self._add(self._layers[0], flow.mT, saved.inputs, accumulate)
        else:
            self._add_gated(flow.mT @ saved.inputs, self._blocks, accumulate)
        self._saved = None

    def _product_weights(self) -> tuple[torch.Tensor, ...]:
        weights = [self._weights[name] for name in self._layers]
        if self._blocks is not None:
            weights[0] = weights[0] * self._gates()[..., self._blocks].unsqueeze(-2)
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

    def _add_gated(self, gated: torch.Tensor, blocks: torch.Tensor, accumulate: bool) -> None:
        """Add the gradients of the first layer and of the mix, given that of the gated weights.

        The layer reads x_c W_c g(c), with g = num_blocks * softmax(mix) of the block of column c.
        So dW_c = d(gated) g and dg = sum of d(gated) W over the block, and through the softmax
        dmix = g * (dg - mean(g * dg)).
        """
        gated = gated.float()
        name, gates = self._layers[0], self._gates()
        by_column = (gated * self._weights[name]).sum(-2)  # [*heads, width]
        if by_column.is_cuda:
            by_gate = sum_by_block(by_column, self._block_widths)
        else:
            by_gate = torch.zeros_like(gates).index_add_(-1, blocks, by_column)
        mean = (gates * by_gate).mean(-1, keepdim=True)
        self._put(name, gated * gates[..., blocks].unsqueeze(-2), accumulate)
        self._put("mix", gates * (by_gate - mean), accumulate)


class AutogradHeads:
    """Heads on segments, with the interface of `BatchedHeads` but gradients by autograd.

    Everything is computed in float32, head by head.
    """

    def __init__(self, models: Sequence[HeadModel]) -> None:
        self.models = list(models)
        self.heads = () if len(models) == 1 else (len(models),)
        self.parameters, self.gradients = share_parameters(models)
        self._values: list[torch.Tensor] = []  # with their graphs

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Widths of the layers of the value."""
        return self.models[0].hidden_sizes

    def forward(self, inputs: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Normalised inputs [*heads, rows, width] -> values [*heads, rows] in float32."""
        own_inputs = inputs.reshape(len(self.models), *inputs.shape[-2:])
        own_masks = [None] * len(self.models) if masks is None else self._split(masks)
        with torch.enable_grad():
            self._values = [
                model.train_values(own, mask)
                for model, own, mask in zip(self.models, own_inputs, own_masks, strict=True)
            ]
        return torch.stack(self._values).detach().view(*self.heads, -1)

    def backward(self, gradient: torch.Tensor, *, accumulate: bool) -> None:
        """Backpropagate d loss / d values [*heads, rows] of the last forward to `gradients`."""
        pulls = gradient.reshape(len(self.models), -1)
        for model, values, pull, own in zip(
            self.models, self._values, pulls, self.gradients, strict=True
        ):
            parts = torch.autograd.grad(values, list(model.parameters()), pull)
            found = torch.cat([part.flatten() for part in parts])
            own.copy_(own + found if accumulate else found)
        self._values = []

    def _split(self, masks: Masks) -> list[tuple[torch.Tensor, ...] | None]:
        shapes = [mask.reshape(len(self.models), *mask.shape[-2:]) for mask in masks]
        return [tuple(of_head) for of_head in zip(*shapes, strict=True)]


def share_parameters(models: Sequence[HeadModel]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the parameters of all models views of one tensor.

    Returns:
        That tensor and one of zeros for the gradients, [heads, parameters] each.
    """
    sizes = [parameter.numel() for parameter in models[0].parameters()]
    device = models[0].normaliser.mean.device
    together = torch.empty(len(models), sum(sizes), device=device)
    for place, (name, _) in enumerate(models[0].named_parameters()):
        for model, weight in zip(models, together.split(sizes, dim=1)[place], strict=True):
            own = model.get_parameter(name)
            weight.copy_(own.detach().view(-1))
            own.data = weight.view(own.shape)
    return together, torch.zeros_like(together)


def sum_by_block(columns: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """Sum adjacent columns, [..., sum of widths] -> [..., blocks], always in the same order.

    NOTE: `index_add_` on CUDA adds in any order, so that two runs would differ.
    """
    return torch.stack([block.sum(-1) for block in columns.split(widths, dim=-1)], dim=-1)


class Dropout:
    """Draws the masks of several heads, each from its own seed; any step can be drawn alone.

    Heads with the same seed share their random numbers.
    """

    def __init__(
        self,
        rates: list[float],
        seeds: list[int],
        hidden_sizes: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """`rates` are the dropout of each head."""
        self.seeds = seeds
        self.hidden_sizes = hidden_sizes
        self.is_off = not any(rates) or not hidden_sizes
        # A row is a whole number of random numbers.
        self._width = -(-sum(hidden_sizes) // 4) * 4
        self._distinct = list(dict.fromkeys(seeds))
        places = [self._distinct.index(seed) for seed in seeds]
        self._places = torch.tensor(places, device=device)
        self._generator = torch.Generator(device)
        levels = torch.tensor([round(rate * DROPOUT_LEVELS) for rate in rates], device=device)
        shape = () if len(rates) == 1 else (len(rates), 1, 1)
        self._thresholds = (levels - DROPOUT_LEVELS // 2).to(torch.int16).view(shape)
        # NOTE: by the rounded rate, so that the mean is exactly that without dropout.
        self._scales = (DROPOUT_LEVELS / (DROPOUT_LEVELS - levels)).view(shape)

    def draw(self, step: int, batch: int, num_rows: int) -> Masks | None:
        """Draw the masks of a batch of a step; those of a row do not depend on num_rows."""
        if self.is_off:
            return None
        words = self.make_words(1, num_rows)
        for seed, of_seed in zip(self._distinct, words, strict=True):
            self._draw_words(of_seed, seed, step, batch)
        return self.masks(words)

    def make_words(self, num_batches: int, num_rows: int) -> torch.Tensor:
        """Make a buffer for the random numbers of batches, [seeds, batches, numbers]."""
        shape = (len(self._distinct), num_batches, num_rows * self._width // 4)
        return torch.empty(shape, dtype=torch.int64, device=self._generator.device)

    def fill(self, words: torch.Tensor, step: int) -> None:
        """Draw the random numbers of all batches of a step into a buffer of `make_words`."""
        for seed, of_seed in zip(self._distinct, words, strict=True):
            for batch, of_batch in enumerate(of_seed):
                self._draw_words(of_batch, seed, step, batch)

    def masks(self, words: torch.Tensor) -> Masks:
        """Turn the numbers of a buffer into the masks of its batches, one after another."""
        rows = words.view(torch.int16).view(len(self._distinct), -1, self._width)
        own = rows.index_select(0, self._places)  # [heads, rows, width]
        masks = ((own[0] if len(self.seeds) == 1 else own) >= self._thresholds) * self._scales
        parts: Masks = masks[..., : sum(self.hidden_sizes)].split(self.hidden_sizes, dim=-1)
        return parts

    def _draw_words(self, words: torch.Tensor, seed: int, step: int, batch: int) -> None:
        """Fill int64 words with random bits."""
        self._generator.manual_seed(mix_seed(seed, step, 1, batch))
        words.random_(-(2**63), None, generator=self._generator)


@contextlib.contextmanager
def _fast_gelu(numbers: torch.Tensor) -> Iterator[None]:
    """Disable oneDNN if its kernel takes longer to start than torch's own to finish.

    NOTE: the switch is global to the process; heads are trained in one thread.
    """
    was_enabled = torch.backends.mkldnn.enabled
    is_small = numbers.device.type == "cpu" and numbers.numel() <= ONEDNN_MIN
    try:
        torch.backends.mkldnn.enabled = was_enabled and not is_small  # type: ignore[assignment]
        yield
    finally:
        torch.backends.mkldnn.enabled = was_enabled
