"""Losses and accuracy of a value head; pairs are judged by Bradley-Terry.

P(correct beats incorrect) = sigmoid(V+ - V-), and the loss is -log of it, averaged over pairs.
V is a sample's value: given directly as [batch] where features were pooled before the head, or as
the mean over a sample's output tokens where the head gave one value a token.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """Bradley-Terry with its options; with the defaults it is the plain -log sigmoid(V+ - V-).

    With d = V+ - V- - margin, s = label_smoothing and c = center_coefficient a pair costs
        -(1 - s) log sigmoid(d) - s log sigmoid(-d) + c (V+ + V-)^2
    The margin is what a pair should be apart by; smoothing says that labels are wrong at times;
    the last term keeps values around 0, where differences alone would let them drift.
    """

    margin: float = 0.0
    label_smoothing: float = 0.0
    center_coefficient: float = 0.0

    def costs(self, correct: torch.Tensor, incorrect: torch.Tensor) -> torch.Tensor:
        """Cost of each pair, all [...]."""
        apart = correct - incorrect - self.margin
        costs = -functional.logsigmoid(apart)
        if self.label_smoothing:  # log sigmoid(-d) = log sigmoid(d) - d
            costs = costs + self.label_smoothing * apart
        if self.center_coefficient:
            costs = costs + self.center_coefficient * (correct + incorrect).square()
        return costs

    def gradients(
        self, correct: torch.Tensor, incorrect: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of each cost by V+, sigmoid(d) - (1 - s), and by V-, its minus."""
        apart = correct - incorrect
        if self.margin:
            apart = apart - self.margin
        upward = apart.sigmoid_() - (1 - self.label_smoothing)
        if not self.center_coefficient:
            return upward, -upward
        centre = 2 * self.center_coefficient * (correct + incorrect)
        return upward + centre, centre - upward


@dataclass(frozen=True, kw_only=True)
class PointLoss:
    """Loss of single samples; a value is the log-odds of being correct (bce), or that (mse)."""

    kind: Literal["bce", "mse"]

    @property
    def middle(self) -> float:
        """The value that says neither correct nor incorrect."""
        return 0.0 if self.kind == "bce" else 0.5

    def costs(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cost of each sample, all [...]."""
        if self.kind == "bce":
            return functional.binary_cross_entropy_with_logits(values, labels, reduction="none")
        return (values - labels).square()

    def gradients(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Derivative of each cost with respect to its value."""
        return values.sigmoid() - labels if self.kind == "bce" else 2 * (values - labels)


def bradley_terry_loss(differences: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(V+ - V-), averaged over the differences [batch]."""
    return -functional.logsigmoid(differences).mean()


def share_won(differences: torch.Tensor) -> torch.Tensor:
    """Share of the differences V+ - V-, [batch], that are above 0."""
    return (differences > 0).double().mean()


def pairwise_ranking_loss(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None = None,
    mask_neg: torch.Tensor | None = None,
) -> torch.Tensor:
    """Bradley-Terry loss of a batch of pairs, a scalar.

    Values are [batch, seq, 1] or [batch, seq] with masks [batch, seq] (true on output tokens), or
    [batch] or [batch, 1] without masks. A mask row without a token, and NaN, are ValueErrors.
    """
    return bradley_terry_loss(_checked_differences(v_pos, v_neg, mask_pos, mask_neg))


@torch.no_grad()
def compute_pairwise_accuracy(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None = None,
    mask_neg: torch.Tensor | None = None,
) -> float:
    """Share of the batch's pairs with V+ > V-; shapes as in `pairwise_ranking_loss`.

    The comparison is strict: a tie counts as wrong here, so that a head that says the same about
    everything scores 0. (Evaluation, which compares judges, counts a tie one half.)
    """
    return share_won(_checked_differences(v_pos, v_neg, mask_pos, mask_neg)).item()


def pointwise_loss(
    values: torch.Tensor, labels: torch.Tensor, kind: Literal["bce", "mse"]
) -> torch.Tensor:
    """Loss of single samples against their labels, both [batch].

    bce reads a value as the log-odds of being correct; mse as the probability itself.
    """
    if kind not in ("bce", "mse"):
        raise ValueError(f"pointwise_loss {kind!r} is unknown; use bce or mse")
    return PointLoss(kind=kind).costs(values, labels.to(values.dtype)).mean()


def sample_values(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """One value a sample, [batch]: the values themselves, or their mean over the mask."""
    if mask is None:
        if values.ndim == 2 and values.shape[1] == 1:
            values = values.squeeze(1)
        if values.ndim != 1:
            raise ValueError(f"values {list(values.shape)} are one a token: give their mask")
        return values
    if values.ndim == 3 and values.shape[2] == 1:
        values = values.squeeze(2)  # [batch, seq]
    if values.shape != mask.shape or mask.ndim != 2:
        raise ValueError(
            f"values {list(values.shape)} and mask {list(mask.shape)} must both be [batch, seq]"
        )
    is_output = mask != 0
    num_tokens = is_output.sum(dim=1)  # [batch]
    if not bool(num_tokens.all()):
        row = int((num_tokens == 0).nonzero()[0])
        raise ValueError(f"mask row {row} has no output token, so the sample has no value")
    # NOTE: where, not a product: whatever stands on padding, NaN included, must not leak in.
    return torch.where(is_output, values, 0).sum(dim=1) / num_tokens


def _checked_differences(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None,
    mask_neg: torch.Tensor | None,
) -> torch.Tensor:
    """V+ - V-, [batch]; refuses what would turn into a silent NaN or 0."""
    pos, neg = sample_values(v_pos, mask_pos), sample_values(v_neg, mask_neg)
    if pos.shape != neg.shape or not len(pos):
        raise ValueError(f"a batch needs pairs: got {len(pos)} correct and {len(neg)} incorrect")
    for name, values in (("correct", pos), ("incorrect", neg)):
        if bool(values.isnan().any()):
            row = int(values.isnan().nonzero()[0])
            raise ValueError(f"the value of {name} sample {row} is NaN; check its features")
    return pos - neg
