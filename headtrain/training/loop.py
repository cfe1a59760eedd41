"""The training loop: batches in, optimizer steps out; any step can be the first.

It trains several heads as one batch of heads; a single head is a batch of one. Apart from rounding
a head does not depend on the others: its order, dropout and gradient are its own.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from headtrain.features.memory import gather
from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.settings import SchedulerSettings, TrainingSettings
from headtrain.training.batched_heads import AutogradHeads, BatchedHeads, Dropout
from headtrain.training.batches import Batch, BatchMaker
from headtrain.training.closed_form import fit_direction
from headtrain.training.loss import Loss, Statistics, make_loss
from headtrain.training.objective import Objective

MAX_WAITING = 16
"""Batches measured together: one by one it would cost a tenth of a step."""

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class HeadJob:
    """One head to train."""

    model: HeadModel
    objective: Objective
    settings: TrainingSettings
    seed: int


def batch_key(spec: HeadSpec, settings: TrainingSettings) -> Hashable:
    """Return a key that is equal for heads that can be trained as one batch of heads.

    Their objectives must also have equally many items and the same features tensor.
    """
    names = ("batching", "n_epochs", "batch_size", "gradient_accumulation_steps")
    key = (spec.shape, make_loss(settings), settings.is_closed_form)
    return (*key, *(getattr(settings, name) for name in names))


class Trainer:
    """Takes optimizer steps and accumulates the means of what training reports.

    Heads in closed form are fitted in a single step.
    All objectives have the same tensor of normalised features.
    """

    def __init__(
        self,
        jobs: Sequence[HeadJob],
        *,
        device: torch.device,
        mixed_precision: bool,
    ) -> None:
        """`mixed_precision` multiplies in bfloat16, on CUDA only; heads on segments never do."""
        settings, objective = jobs[0].settings, jobs[0].objective
        assert len({batch_key(job.model.spec, job.settings) for job in jobs}) == 1
        assert all(job.objective.features is objective.features for job in jobs)
        assert all(job.objective.num_items == objective.num_items for job in jobs)
        self.jobs = list(jobs)
        self.device = device
        models = [job.model for job in jobs]
        # NOTE: on a CPU bfloat16 does not make a small head faster, so it is off there.
        is_mixed = mixed_precision and device.type == "cuda"
        self.heads: AutogradHeads | BatchedHeads = (
            AutogradHeads(models)
            if models[0].spec.layout is not None
            else BatchedHeads(models, product_dtype=torch.bfloat16 if is_mixed else torch.float32)
        )
        self.optimizer = BatchedAdamW(
            self.heads.parameters,
            self.heads.gradients,
            [job.settings.weight_decay for job in jobs],
        )
        seeds = [job.seed for job in jobs]
        num_items = max(1, round(settings.n_epochs * objective.num_items))
        self.batches = BatchMaker(
            [job.objective for job in jobs],
            seeds,
            batch_size=settings.batch_size,
            batches_per_step=settings.gradient_accumulation_steps,
            num_items=num_items,
            device=device,
        )
        self.num_steps = math.ceil(num_items / self.batches.items_per_step)
        self.steps_per_epoch = objective.num_items / self.batches.items_per_step
        self._is_closed_form = settings.is_closed_form
        if self._is_closed_form:
            self.num_steps, self.steps_per_epoch = 1, 1.0
        self.learning_rates = [0.0 for _ in jobs]
        self.loss = make_loss(settings)
        self.means = RunningMeans(self.loss, len(jobs), device)
        rates = [job.settings.dropout for job in jobs]
        self.dropout = Dropout(rates, seeds, self.heads.hidden_sizes, device)
        limits = [job.settings.max_grad_norm for job in jobs]
        self._is_clipped = any(limit is not None for limit in limits)
        self._limits = torch.tensor([limit or math.inf for limit in limits], device=device)

    def take_step(self, step: int) -> None:
        """Take optimizer step `step`, counted from 0, without waiting for the device."""
        self.means.num_steps += 1
        if self._is_closed_form:
            self._fit()
            return
        self.learning_rates = self.rates_of(step)
        self.step(step)

    def step(self, step: int) -> None:
        """Compute the gradients of a step and update the weights."""
        for number, batch in enumerate(self.batches.read(step)):
            self._add_gradients(step, number, batch)
        self.update(self.learning_rates)

    def read_means(self) -> list[dict[str, float]]:
        """Return the means of every head since the last call; only this waits for the device."""
        return [
            means | {"learning_rate": rate}
            for means, rate in zip(self.means.read(), self.learning_rates, strict=True)
        ]

    def rates_of(self, step: int) -> list[float]:
        """Return the learning rates of a step, [heads]."""
        return [
            job.settings.value_head_learning_rate
            * learning_rate_factor(step, self.num_steps, job.settings.lr_scheduler)
            for job in self.jobs
        ]

    @torch.no_grad()
    def _fit(self) -> None:
        for number, job in enumerate(self.jobs):
            weight, correct, incorrect, shares = fit_direction(
                job.objective, job.settings, self.device
            )
            job.model.get_parameter("head.linear.weight").copy_(weight[None])
            self.means.measure_head(number, correct, incorrect, shares)

    def update(self, learning_rates: list[float] | torch.Tensor) -> None:
        """Clip the gradients and take the optimizer step."""
        norms = torch.linalg.vector_norm(self.heads.gradients, dim=1)  # [heads]
        self.means.add_norms(norms)
        # NOTE: the inverse of the factor that torch.nn.utils.clip_grad_norm_ multiplies by.
        scales = ((norms + 1e-6) / self._limits).clamp_(min=1.0) if self._is_clipped else None
        self.optimizer.step(learning_rates, scales)

    def _add_gradients(self, step: int, number: int, batch: Batch) -> None:
        features = self.jobs[0].objective.features
        masks = self.dropout.draw(step, number, batch.num_rows)
        inputs = gather(features, batch.rows, self.device)  # [heads * rows, width]
        shape = (*self.heads.heads, batch.num_rows)
        values = self.heads.forward(inputs.view(*shape, -1), masks).reshape(-1)
        first = values.index_select(0, batch.first)  # [heads * terms]
        other = batch.labels if batch.second is None else values.index_select(0, batch.second)
        assert other is not None, "a term has a second value or a label"
        by_first, by_other = self.loss.gradients(first, other)
        gradient = torch.zeros_like(values)
        if batch.second is not None and by_other is not None:
            gradient.index_add_(0, batch.second, by_other.mul_(batch.shares))
        gradient.index_add_(0, batch.first, by_first.mul_(batch.shares))
        self.heads.backward(gradient.view(shape), accumulate=number > 0)
        self.means.add(first, other, batch.shares)


class RunningMeans:
    """Means over the optimizer steps since the last reading, for each head, kept on the device."""

    num_steps: int
    """Optimizer steps since the last reading; the trainer counts them."""

    def __init__(self, loss: Loss, num_heads: int, device: torch.device) -> None:
        self.loss = loss
        self.num_heads = num_heads
        self._sums = torch.zeros(len(Statistics._fields), num_heads, device=device)
        self._norms = torch.zeros(num_heads, device=device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.num_steps = 0

    def add(self, first: torch.Tensor, other: torch.Tensor, shares: torch.Tensor) -> None:
        """Add the terms of a batch, [heads * terms] each."""
        self._waiting.append((first, other, shares))
        if len(self._waiting) == MAX_WAITING:
            self._measure_waiting()

    def add_norms(self, norms: torch.Tensor) -> None:
        """Add the gradient norms of a step, [heads]."""
        self._norms += norms

    def read(self) -> list[dict[str, float]]:
        """Return the means of every head and start again; this waits for the device."""
        self._measure_waiting()
        num_steps = max(1, self.num_steps)
        loss, accuracy, *parts = self._sums
        correct, incorrect = (
            total / weight.clamp(min=1e-9) for total, weight in (parts[:2], parts[2:])
        )
        means = {
            "loss": loss / num_steps,
            "accuracy": accuracy / num_steps,
            "margin": correct - incorrect,
            "grad_norm": self._norms / num_steps,
        }
        rows = torch.stack([*means.values()]).T.tolist()  # [heads, means]
        self._sums.zero_()
        self._norms.zero_()
        self.num_steps = 0
        return [dict(zip(means, row, strict=True)) for row in rows]

    def measure(self, first: torch.Tensor, other: torch.Tensor, shares: torch.Tensor) -> None:
        """Add the terms of a step at once, [heads * terms] each."""
        by_head = [part.view(self.num_heads, -1) for part in (first, other)]
        statistics = torch.stack(self.loss.statistics(*by_head))
        self._sums += (statistics * shares.view(self.num_heads, -1)).sum(-1)

    def measure_head(
        self, number: int, first: torch.Tensor, other: torch.Tensor, shares: torch.Tensor
    ) -> None:
        """Add the terms of one head, [terms] each; heads may have different numbers of terms."""
        statistics = torch.stack(self.loss.statistics(first[None], other[None]))[:, 0]
        self._sums[:, number] += (statistics * shares).sum(-1)

    def _measure_waiting(self) -> None:
        if not self._waiting:
            return
        first, other, shares = (  # [heads, terms]
            torch.cat([part.view(self.num_heads, -1) for part in parts], dim=1)
            for parts in zip(*self._waiting, strict=True)
        )
        self._waiting = []
        self.measure(first, other, shares)


class BatchedAdamW:
    """torch.optim.AdamW on each row of [heads, parameters], at a quarter of its cost.

    torch.optim.AdamW spends more time on bookkeeping than such small heads on everything else, so
    this calls its fused kernel directly. The kernel divides the gradient by a scale, which clips it
    without another pass.
    """

    def __init__(
        self, parameters: torch.Tensor, gradients: torch.Tensor, weight_decays: list[float]
    ) -> None:
        self.weight_decays = weight_decays
        self.step_count = torch.zeros((), device=parameters.device)
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self._rows = [
            tuple([row] for row in rows)
            for rows in zip(parameters, gradients, self.mean, self.square, strict=True)
        ]

    def step(self, learning_rates: list[float] | torch.Tensor, scales: torch.Tensor | None) -> None:
        """Update every head with its gradient divided by its scale, [heads].

        Learning rates [heads] in a tensor are read when the update runs.
        """
        self.step_count += 1
        for head, (parameters, gradients, mean, square) in enumerate(self._rows):
            torch._fused_adamw_(
                parameters,
                gradients,
                mean,
                square,
                [],
                [self.step_count],
                lr=learning_rates[head],
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self.weight_decays[head],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=None if scales is None else scales[head],
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state to resume from, on the CPU."""
        tensors = {"step": self.step_count, "mean": self.mean, "square": self.square}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a state."""
        self.step_count.copy_(state["step"])
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])


def learning_rate_factor(step: int, num_steps: int, settings: SchedulerSettings) -> float:
    """Return the share of the peak learning rate at optimizer step `step` of num_steps, from 0.

    With w = ceil(num_steps * warmup_ratio) warm-up steps:
        step < w:  (step + 1) / w
        cosine:    m + (1 - m) * (1 + cos(pi * (step - w) / (num_steps - w))) / 2,  m = min_lr_ratio
        constant:  1
    Steps past the end keep the last value.
    """
    # NOTE: step + 1, while transformers starts from 0: a run of one step must change the weights.
    num_warmup = math.ceil(num_steps * settings.warmup_ratio)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if settings.type == "constant":
        return 1.0
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine
