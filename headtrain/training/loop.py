"""The training loop: batches in, optimizer steps out, the same from any step on.

It trains a stack of heads as one; a single head is a stack of one. A head does not depend on those
beside it but for rounding: its order, its dropout and its gradient are its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from featurize.errors import CriticError
from headtrain.features.memory import gather
from headtrain.head.model import HeadModel
from headtrain.settings import TrainingSettings
from headtrain.training.batched_heads import HeadStack
from headtrain.training.batches import Batch, BatchMaker
from headtrain.training.dropout import Dropout
from headtrain.training.loss import PairLoss, PointLoss
from headtrain.training.objective import Objective
from headtrain.training.optimizer import StackedAdamW
from headtrain.training.schedule import learning_rate_factor
from headtrain.training.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class HeadJob:
    """One head to train."""

    model: HeadModel
    objective: Objective
    settings: TrainingSettings
    seed: int


STACKED_ALIKE = (
    "loss_type",
    "pointwise_loss",
    "margin",
    "label_smoothing",
    "center_coefficient",
    "batching",
    "n_epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "value_head_type",
    "value_head_width",
    "feature_mix",
    "likelihood_direct",
)
"""Settings that heads of one stack share; in all others each may go its own way."""


class Trainer:
    """Takes optimizer steps and keeps the means of what it saw since it was last asked.

    Objectives hold normalised features, all of them the same tensor: what never changes is computed
    once, not every step.
    """

    def __init__(
        self, jobs: Sequence[HeadJob], *, device: torch.device, mixed_precision: bool
    ) -> None:
        settings, objective = jobs[0].settings, jobs[0].objective
        for name in STACKED_ALIKE:
            assert all(getattr(j.settings, name) == getattr(settings, name) for j in jobs), name
        assert all(job.objective.features is objective.features for job in jobs)
        assert all(job.objective.num_items == objective.num_items for job in jobs)
        self.jobs = list(jobs)
        self.device = device
        # NOTE: on a CPU bfloat16 saves a small head nothing, so mixed precision is off there.
        is_mixed = mixed_precision and device.type == "cuda"
        self.stack = HeadStack(
            [job.model for job in jobs],
            product_dtype=torch.bfloat16 if is_mixed else torch.float32,
        )
        self.optimizer = StackedAdamW(
            self.stack.parameters,
            self.stack.gradients,
            [job.settings.weight_decay for job in jobs],
        )
        num_items = max(1, round(settings.n_epochs * objective.num_items))
        self.batches = BatchMaker(
            [job.objective for job in jobs],
            [job.seed for job in jobs],
            batch_size=settings.batch_size,
            batches_per_step=settings.gradient_accumulation_steps,
            num_items=num_items,
            device=device,
        )
        self.num_steps = math.ceil(num_items / self.batches.items_per_step)
        self.steps_per_epoch = objective.num_items / self.batches.items_per_step
        self.learning_rates = [0.0 for _ in jobs]
        self.loss = _make_loss(settings)
        self.statistics = Statistics(self.loss, len(jobs), device)
        self._dropout = Dropout(
            [job.settings.dropout for job in jobs],
            [job.seed for job in jobs],
            self.stack.hidden_sizes,
            device,
        )
        longest = [job.settings.max_grad_norm for job in jobs]
        self._is_clipped = any(length is not None for length in longest)
        self._longest = torch.tensor([length or math.inf for length in longest], device=device)

    def take_step(self, step: int) -> None:
        """Optimizer step `step`, counted from 0; nothing waits for the device."""
        for number, batch in enumerate(self.batches.read(step)):
            self._add_gradients(step, number, batch)
        norms = self.stack.norms()
        self.statistics.end_step(norms)
        # NOTE: the scale that torch.nn.utils.clip_grad_norm_ multiplies with, turned over.
        scales = ((norms + 1e-6) / self._longest).clamp_(min=1.0) if self._is_clipped else None
        self.learning_rates = [
            job.settings.value_head_learning_rate
            * learning_rate_factor(step, self.num_steps, job.settings.lr_scheduler)
            for job in self.jobs
        ]
        self.optimizer.step(self.learning_rates, scales)

    def read_means(self) -> list[dict[str, float]]:
        """Means since the last call, of every head; here, and only here, the host waits."""
        return [
            means | {"learning_rate": rate}
            for means, rate in zip(self.statistics.read(), self.learning_rates, strict=True)
        ]

    def _add_gradients(self, step: int, number: int, batch: Batch) -> None:
        features = self.jobs[0].objective.features
        masks = self._dropout.draw(step, number, batch.num_rows)
        inputs = gather(features, batch.rows, self.device)  # [heads * rows, width]
        shape = (*self.stack.heads, batch.num_rows)
        values = self.stack.forward(inputs.view(*shape, -1), masks).reshape(-1)
        first = values.index_select(0, batch.first)  # [heads * terms]
        gradient = torch.zeros_like(values)
        if isinstance(self.loss, PairLoss):
            assert batch.second is not None
            second = values.index_select(0, batch.second)
            upward, downward = self.loss.gradients(first, second)
            gradient.index_add_(0, batch.second, downward.mul_(batch.shares))
        else:
            assert batch.labels is not None
            second = None
            upward = self.loss.gradients(first, batch.labels)
        gradient.index_add_(0, batch.first, upward.mul_(batch.shares))
        self.stack.backward(gradient.view(shape), accumulate=number > 0)
        self.statistics.add(batch, first, second)


def refuse_divergence(means: dict[str, float], num_done: int, settings: TrainingSettings) -> None:
    """Stops a run whose loss or gradient was NaN or inf."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(means[name]):
            raise CriticError(
                f"{name} is {means[name]} by step {num_done}; lower "
                f"training.value_head_learning_rate {settings.value_head_learning_rate} "
                "or training.max_grad_norm"
            )


def _make_loss(settings: TrainingSettings) -> PairLoss | PointLoss:
    if settings.loss_type == "pointwise":
        return PointLoss(kind=settings.pointwise_loss)
    return PairLoss(
        margin=settings.margin,
        label_smoothing=settings.label_smoothing,
        center_coefficient=settings.center_coefficient,
    )
