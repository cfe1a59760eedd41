"""Heads without explicit gradients, trained by autograd, with the interface of `BatchedHeads`."""

from collections.abc import Sequence

import torch

from headtrain.head.model import HeadModel
from headtrain.training.batched_heads import Masks, share_parameters


class AutogradHeads:
    """Heads on segments; `*heads` in a shape is empty for a single head, else their number.

    The parameters of the models become views of `parameters`, so the models are trained in place.
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
        found = torch.stack(
            [
                torch.cat([part.flatten() for part in self._gradients_of(number, pull)])
                for number, pull in enumerate(pulls)
            ]
        )
        self._values = []
        if accumulate:
            self.gradients.add_(found)
        else:
            self.gradients.copy_(found)

    def norms(self) -> torch.Tensor:
        """Return the norm of each head's gradient, [heads]."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.gradients, dim=1)
        return norms

    def _gradients_of(self, number: int, pull: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parameters = list(self.models[number].parameters())
        return torch.autograd.grad(self._values[number], parameters, pull)

    def _split(self, masks: Masks) -> list[tuple[torch.Tensor, ...] | None]:
        shapes = [mask.reshape(len(self.models), *mask.shape[-2:]) for mask in masks]
        return [tuple(of_head) for of_head in zip(*shapes, strict=True)]
