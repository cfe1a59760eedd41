"""What training looks like from inside: means of loss, accuracy and margin, gathered lazily."""

import torch

from headtrain.training.batches import Batch
from headtrain.training.loss import PairLoss, PointLoss

STATISTICS = ("loss", "accuracy", "margin", "grad_norm")

MOST_WAITING = 16
"""Batches whose values wait to be measured together: one by one it would cost a tenth of a step."""


class Statistics:
    """Means over the optimizer steps since they were last read, for each head of a stack."""

    def __init__(self, loss: PairLoss | PointLoss, num_heads: int, device: torch.device) -> None:
        self.loss = loss
        self.num_heads = num_heads
        # loss, accuracy, then value and share of the correct, value and share of the incorrect
        self._sums = torch.zeros(6, num_heads, device=device)
        self._norms = torch.zeros(num_heads, device=device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._num_steps = 0

    def add(self, batch: Batch, first: torch.Tensor, second: torch.Tensor | None) -> None:
        """Note the values that the terms of a batch compare, [heads * terms] each."""
        other = batch.labels if second is None else second
        assert other is not None, "a term has a rival or a label"
        self._waiting.append((first, other, batch.shares))
        if len(self._waiting) == MOST_WAITING:
            self._measure()

    def end_step(self, norms: torch.Tensor) -> None:
        """Note the lengths of the gradients of a step, [heads]."""
        self._norms += norms
        self._num_steps += 1

    def read(self) -> list[dict[str, float]]:
        """Means of every head since the last call; here the host waits for the device."""
        self._measure()
        number = max(1, self._num_steps)
        loss, accuracy, *parts = self._sums
        means = [part / share.clamp(min=1e-9) for part, share in (parts[:2], parts[2:])]
        rows = torch.stack(
            [loss / number, accuracy / number, means[0] - means[1], self._norms / number]
        )  # [statistics, heads]
        self._sums.zero_()
        self._norms.zero_()
        self._num_steps = 0
        return [dict(zip(STATISTICS, row, strict=True)) for row in rows.T.tolist()]

    def _measure(self) -> None:
        if not self._waiting:
            return
        first, other, shares = (self._join(column) for column in zip(*self._waiting, strict=True))
        self._waiting = []
        if isinstance(self.loss, PairLoss):
            columns = [self.loss.costs(first, other), first > other, first - other]
            self._sums[3] += shares.sum(-1)  # the margin is one difference, not two means
        else:
            is_right = (first > self.loss.middle) == (other > 0)
            parts = [first * other, other, first * (1 - other), 1 - other]
            columns = [self.loss.costs(first, other), is_right, *parts]
        self._sums[: len(columns)] += (torch.stack(columns) * shares).sum(-1)

    def _join(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Batches side by side, [heads, terms]."""
        if self.num_heads == 1:
            return torch.cat(parts).unsqueeze(0)
        return torch.cat([part.view(self.num_heads, -1) for part in parts], dim=1)
