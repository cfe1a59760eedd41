"""Folds a linear head, its normaliser and its mix into one weight vector and a constant."""

import copy
from dataclasses import dataclass

import torch

from featurize.errors import CriticError
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Calibration


class ExportError(CriticError):
    """A head that cannot be exported as asked."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A linear head as one product: value = weight @ features + offset."""

    weight: torch.Tensor
    """float64 [width]."""
    offset: float


@dataclass(frozen=True, kw_only=True)
class LogitScale:
    """Platt scaling in the form of vLLM: probability = sigmoid((logit - mean) / sigma)."""

    mean: float
    sigma: float

    def to_pooler_config(self) -> dict[str, float]:
        """Return the fields of vLLM's PoolerConfig (vllm/config/pooler.py)."""
        return {"logit_mean": self.mean, "logit_sigma": self.sigma}


def fold(head: TrainedHead) -> Folded:
    """Fold a linear head of any normaliser, mix or number of members, in float64.

    Raises:
        ExportError: the head is not linear.
    """
    record = head.record
    if record.head_type != "linear":
        raise ExportError(f"{head.path}: a head of type {record.head_type!r} is not linear")
    model = copy.deepcopy(head.model).cpu().double().eval()
    # The gradient of an affine function is its weight vector, however the function is written.
    inputs = torch.zeros(record.columns.width, dtype=torch.float64, requires_grad=True)
    value = model(inputs).squeeze()
    (weight,) = torch.autograd.grad(value, inputs)
    return Folded(weight=weight, offset=float(value.detach()))


def why_not_native(head: TrainedHead, num_layers: int) -> str | None:
    """Say why a head cannot be a `*ForSequenceClassification`; None if it can.

    That class applies a linear layer to the last token of the last layer, after the final norm.
    Layers below the last are stored before any norm, and a linear layer cannot undo one.
    """
    record = head.record
    if record.head_type != "linear":
        return f"its type is {record.head_type}, not linear"
    if record.likelihood:
        return "it reads the likelihood"
    if list(record.tensors) != [f"last.{num_layers}"]:
        return f"it reads {', '.join(record.tensors)}, not last.{num_layers} alone"
    return None


def logit_scale(calibration: Calibration | None, offset: float) -> LogitScale | None:
    """Convert a calibration of values to one of logits, where value = logit + offset.

    None without a calibration, or with one of slope 0, which has no such form.
    """
    if calibration is None or calibration.slope == 0:
        return None
    mean = -(offset + calibration.intercept / calibration.slope)
    return LogitScale(mean=mean, sigma=1 / calibration.slope)
