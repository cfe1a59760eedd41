"""Draws the dropout masks of many heads, each from its own seed, the same wherever a run begins."""

import torch

from headtrain.training.batched_heads import Masks
from headtrain.training.seeds import mix_seed

LEVELS = 2**16
"""Dropout is a multiple of 1 / LEVELS: four masked numbers from one random one of 64 bits."""


class Dropout:
    """Masks of a stack of heads; heads of equal seed and place share their random numbers."""

    def __init__(
        self,
        shares: list[float],
        seeds: list[int],
        hidden_sizes: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """`shares` is the dropout of each head."""
        self.seeds = seeds
        self.hidden_sizes = hidden_sizes
        self.is_off = not any(shares) or not hidden_sizes
        self._generator = torch.Generator(device)
        self._device = device
        dropped = torch.tensor([round(share * LEVELS) for share in shares], device=device)
        shape = () if len(shares) == 1 else (len(shares), 1, 1)
        self._thresholds = (dropped - LEVELS // 2).to(torch.int16).view(shape)
        # NOTE: of the share really dropped, so that the mean stays what it is without dropout.
        self._scales = (LEVELS / (LEVELS - dropped)).view(shape)

    def draw(self, step: int, batch: int, num_rows: int) -> Masks | None:
        """Masks of a batch of an optimizer step; the masks of a row do not depend on num_rows."""
        if self.is_off:
            return None
        first, second = self.hidden_sizes
        width = -(-(first + second) // 4) * 4  # whole random numbers a row
        # NOTE: seeded by the step, so a run that goes on draws what it would have drawn.
        words = {
            seed: self._words(seed, step, batch, num_rows * width).view(num_rows, width)
            for seed in {*self.seeds}
        }
        if len(self.seeds) == 1:
            numbers = words[self.seeds[0]]
        else:
            numbers = torch.stack([words[seed] for seed in self.seeds])  # [heads, rows, width]
        masks = (numbers >= self._thresholds) * self._scales
        return Masks(masks[..., :first], masks[..., first : first + second])

    def _words(self, seed: int, step: int, batch: int, count: int) -> torch.Tensor:
        self._generator.manual_seed(mix_seed(seed, step, 1, batch))
        numbers = torch.empty(count // 4, dtype=torch.int64, device=self._device)
        return numbers.random_(-(2**63), None, generator=self._generator).view(torch.int16)
