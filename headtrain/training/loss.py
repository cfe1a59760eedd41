"""Losses and accuracy of a value head.

Pairs use Bradley-Terry: P(correct beats incorrect) = sigmoid(V+ - V-), and the loss is -log of it,
averaged over pairs. V is the value of a sample: given directly as [batch] if features were pooled
before the head, or the mean over its output tokens if the head computed one value per token.

To add a loss, implement `Loss`, add it to `LOSSES` and its name to TrainingSettings.loss_type.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch.nn import functional

from headtrain.settings import TrainingSettings


class Statistics(NamedTuple):
    """Per-term quantities that training reports; all [...].

    The reported margin is sum(correct) / sum(correct_weight), minus the same for incorrect.
    """

    costs: torch.Tensor
    is_right: torch.Tensor
    correct: torch.Tensor
    correct_weight: torch.Tensor
    incorrect: torch.Tensor
    incorrect_weight: torch.Tensor


class Loss(Protocol):
    """A loss over terms; a term is a pair of values, or one value and its label.

    `other` is the value of the incorrect sample or the label. Shapes are [...].
    """

    uses_pairs: bool
    """Whether a term is a pair of values."""

    def costs(self, values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the cost of each term."""

    def gradients(
        self, values: torch.Tensor, other: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the derivatives of each cost by its value and by `other`; None for a label."""

    def statistics(self, values: torch.Tensor, other: torch.Tensor) -> Statistics:
        """Return what training reports."""


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """Bradley-Terry with options; the defaults give -log sigmoid(V+ - V-).

    With d = V+ - V- - margin, s = label_smoothing and c = center_coefficient a pair costs
        -(1 - s) log sigmoid(d) - s log sigmoid(-d) + c (V+ + V-)^2
    The margin is the wanted difference, smoothing accounts for wrong labels, and the last term
    keeps values around 0, which differences alone do not determine.
    """

    margin: float = 0.0
    label_smoothing: float = 0.0
    center_coefficient: float = 0.0
    uses_pairs = True

    def costs(self, values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the cost of each pair."""
        apart = values - other - self.margin
        costs = -functional.logsigmoid(apart)
        if self.label_smoothing:  # log sigmoid(-d) = log sigmoid(d) - d
            costs = costs + self.label_smoothing * apart
        if self.center_coefficient:
            costs = costs + self.center_coefficient * (values + other).square()
        return costs

    def gradients(
        self, values: torch.Tensor, other: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sigmoid(d) - (1 - s) + 2c (V+ + V-) and its counterpart for V-."""
        apart = values - other
        if self.margin:
            apart = apart - self.margin
        upward = apart.sigmoid_() - (1 - self.label_smoothing)
        if not self.center_coefficient:
            return upward, -upward
        centre = 2 * self.center_coefficient * (values + other)
        return upward + centre, centre - upward

    def statistics(self, values: torch.Tensor, other: torch.Tensor) -> Statistics:
        """Return costs, won pairs and differences."""
        ones, zeros = torch.ones_like(values), torch.zeros_like(values)
        costs = self.costs(values, other)
        return Statistics(costs, values > other, values - other, ones, zeros, zeros)


@dataclass(frozen=True, kw_only=True)
class PointLoss:
    """Loss of single samples: a value is the log-odds (bce) or the probability (mse) of correct."""

    kind: Literal["bce", "mse"]
    uses_pairs = False

    def costs(self, values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the cost of each sample."""
        if self.kind == "bce":
            return functional.binary_cross_entropy_with_logits(values, other, reduction="none")
        return (values - other).square()

    def gradients(self, values: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the derivative of each cost by its value."""
        return values.sigmoid() - other if self.kind == "bce" else 2 * (values - other), None

    def statistics(self, values: torch.Tensor, other: torch.Tensor) -> Statistics:
        """Return costs, right calls, and the values of correct and of incorrect samples."""
        neutral = 0.0 if self.kind == "bce" else 0.5
        is_right = (values > neutral) == (other > 0)
        costs, rest = self.costs(values, other), 1 - other
        return Statistics(costs, is_right, values * other, other, values * rest, rest)


LOSSES: Mapping[str, Callable[[TrainingSettings], Loss]] = {
    "pairwise": lambda settings: PairLoss(
        margin=settings.margin,
        label_smoothing=settings.label_smoothing,
        center_coefficient=settings.center_coefficient,
    ),
    "pointwise": lambda settings: PointLoss(kind=settings.pointwise_loss),
}
"""The losses by the name that training.loss_type gives them."""


def make_loss(settings: TrainingSettings) -> Loss:
    """Make the loss of the settings."""
    return LOSSES[settings.loss_type](settings)


def pairwise_ranking_loss(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None = None,
    mask_neg: torch.Tensor | None = None,
) -> torch.Tensor:
    """Bradley-Terry loss of a batch of pairs, a scalar.

    Values are [batch, seq, 1] or [batch, seq] with masks [batch, seq] (true on output tokens), or
    [batch] or [batch, 1] without masks.

    Raises:
        ValueError: a mask row has no token, a value is NaN, or the shapes do not fit.
    """
    differences = _checked_differences(v_pos, v_neg, mask_pos, mask_neg)
    return -functional.logsigmoid(differences).mean()


@torch.no_grad()
def compute_pairwise_accuracy(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None = None,
    mask_neg: torch.Tensor | None = None,
) -> float:
    """Share of the batch's pairs with V+ > V-; shapes and errors as in `pairwise_ranking_loss`.

    A tie counts as wrong, so a constant head scores 0. (Evaluation counts a tie one half.)
    """
    differences = _checked_differences(v_pos, v_neg, mask_pos, mask_neg)
    return (differences > 0).double().mean().item()


def sample_values(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return one value per sample, [batch]: the values themselves, or their mean over the mask."""
    if mask is None:
        if values.ndim == 2 and values.shape[1] == 1:
            values = values.squeeze(1)
        if values.ndim != 1:
            raise ValueError(f"values {list(values.shape)} have one per token: give their mask")
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
    # NOTE: where, not a product, so that values on padding, even NaN, are ignored.
    return torch.where(is_output, values, 0).sum(dim=1) / num_tokens


def _checked_differences(
    v_pos: torch.Tensor,
    v_neg: torch.Tensor,
    mask_pos: torch.Tensor | None,
    mask_neg: torch.Tensor | None,
) -> torch.Tensor:
    """V+ - V-, [batch]; refuses inputs that would silently give NaN or 0."""
    pos, neg = sample_values(v_pos, mask_pos), sample_values(v_neg, mask_neg)
    if pos.shape != neg.shape or not len(pos):
        raise ValueError(f"a batch needs pairs: got {len(pos)} correct and {len(neg)} incorrect")
    for name, values in (("correct", pos), ("incorrect", neg)):
        if bool(values.isnan().any()):
            row = int(values.isnan().nonzero()[0])
            raise ValueError(f"the value of {name} sample {row} is NaN; check its features")
    return pos - neg
