"""What one batch costs: pairs against each other, or samples against their labels.

An objective is a list of items that a pass over the data visits once each; what an item is (a pair,
a sample) is its own business, so that the loop is the same for both.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headtrain.inputs import HeadInputs
from headtrain.loss import bradley_terry_loss, pointwise_loss, share_won
from headtrain.pairs import PairPlan

STATISTICS = ("loss", "accuracy", "margin")
"""Means over a batch's items, in the order an objective returns them."""


class Objective(Protocol):
    """Items to learn from."""

    @property
    def num_items(self) -> int:
        """Items a pass visits."""

    @property
    def items_per_pair(self) -> int:
        """Items that make up a batch of one pair."""

    def measure(self, head: nn.Module, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss over items [batch], and the detached STATISTICS [3]; nothing synchronises."""


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """Bradley-Terry over the planned pairs."""

    features: torch.Tensor  # [rows, width], normalised
    correct: torch.Tensor  # [pairs] row of each pair's correct sample
    incorrect: torch.Tensor  # [pairs]
    num_items: int
    items_per_pair: int = 1

    def measure(self, head: nn.Module, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both samples of every pair go through the head in one forward."""
        rows = torch.cat([self.correct[items], self.incorrect[items]])  # [2 * batch]
        values = head(self.features[rows]).squeeze(-1).float()  # [2 * batch]
        differences = values[: len(items)] - values[len(items) :]  # [batch]
        loss = bradley_terry_loss(differences)
        seen = differences.detach()
        return loss, torch.stack([loss.detach(), share_won(seen).float(), seen.mean()])


@dataclass(frozen=True, kw_only=True)
class PointObjective:
    """Each sample that a planned pair touches, once, against its own label."""

    features: torch.Tensor  # [rows, width], normalised
    rows: torch.Tensor  # [samples]
    labels: torch.Tensor  # [samples] float, 1 is correct
    kind: Literal["bce", "mse"]
    num_items: int
    items_per_pair: int = 2

    def measure(self, head: nn.Module, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Accuracy is that of the decision at one half; margin the gap of the mean values."""
        labels = self.labels[items]  # [batch]
        values = head(self.features[self.rows[items]]).squeeze(-1).float()  # [batch]
        loss = pointwise_loss(values, labels, self.kind)
        seen = values.detach()
        middle = 0.0 if self.kind == "bce" else 0.5
        accuracy = ((seen > middle) == (labels > 0)).float().mean()
        num_correct = labels.sum()
        mean_correct = (seen * labels).sum() / num_correct.clamp(min=1)
        mean_incorrect = (seen * (1 - labels)).sum() / (len(items) - num_correct).clamp(min=1)
        return loss, torch.stack([loss.detach(), accuracy, mean_correct - mean_incorrect])


def pair_objective(inputs: HeadInputs, plan: PairPlan) -> PairObjective:
    """Pairs of samples become pairs of feature rows on the features' device."""
    return PairObjective(
        features=inputs.features,
        correct=_rows(inputs, plan.correct),
        incorrect=_rows(inputs, plan.incorrect),
        num_items=len(plan.correct),
    )


def point_objective(
    inputs: HeadInputs, plan: PairPlan, kind: Literal["bce", "mse"]
) -> PointObjective:
    """The distinct samples of the plan, with their labels."""
    touched = np.unique(np.concatenate([plan.correct, plan.incorrect]))
    labels = torch.from_numpy(inputs.samples.is_correct[touched].astype(np.float32))
    return PointObjective(
        features=inputs.features,
        rows=_rows(inputs, touched),
        labels=labels.to(inputs.features.device),
        kind=kind,
        num_items=len(touched),
    )


def _rows(inputs: HeadInputs, samples: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(inputs.rows[samples]).to(inputs.features.device)
