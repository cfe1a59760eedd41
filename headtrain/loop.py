"""The training loop: batches in, optimizer steps out, the same from any step on.

The items of all epochs form one stream, epoch after epoch in fresh random order; step s takes the
next batch_size * gradient_accumulation_steps pairs of it. So no batch is short but the very last,
no tail is dropped, and where a run stands is one number.
"""

import contextlib
import math
from collections.abc import Iterator

import torch

from headtrain.head import HeadModel
from headtrain.objective import STATISTICS, Objective
from headtrain.schedule import learning_rate_factor
from headtrain.settings import TrainingSettings

MASK = 2**64 - 1


class TrainingError(ValueError):
    """Training cannot go on."""


class ItemStream:
    """The order in which the epochs visit the items; any stretch of it can be asked for."""

    def __init__(self, num_items: int, seed: int, device: torch.device) -> None:
        self.num_items = num_items
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def read(self, start: int, end: int) -> torch.Tensor:
        """Items [end - start] at these places of the stream."""
        parts = []
        while start < end:
            epoch, place = divmod(start, self.num_items)
            length = min(end - start, self.num_items - place)
            parts.append(self._epoch_order(epoch)[place : place + length])
            start += length
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _epoch_order(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            # NOTE: drawn on the CPU, so that the order is the same on every device.
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, 0))
            order = torch.randperm(self.num_items, generator=generator)
            self._epoch, self._order = epoch, order.to(self.device)
        return self._order


class Trainer:
    """Takes optimizer steps and keeps the means of what it saw since it was last asked.

    The objective holds normalised features: what never changes is computed once, not every step.
    """

    def __init__(
        self,
        model: HeadModel,
        objective: Objective,
        settings: TrainingSettings,
        *,
        device: torch.device,
        seed: int,
        mixed_precision: bool,
    ) -> None:
        self.model = model
        self.objective = objective
        self.settings = settings
        self.device = device
        self.seed = seed
        self.items_per_batch = settings.batch_size * objective.items_per_pair
        self.items_per_step = self.items_per_batch * settings.gradient_accumulation_steps
        self.num_items = max(1, round(settings.n_epochs * objective.num_items))
        self.num_steps = math.ceil(self.num_items / self.items_per_step)
        self.steps_per_epoch = objective.num_items / self.items_per_step
        self.learning_rate = 0.0
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.value_head_learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._stream = ItemStream(objective.num_items, seed, device)
        # NOTE: on a CPU bfloat16 saves a small head nothing, so mixed precision is off there.
        self._uses_autocast = mixed_precision and device.type == "cuda"
        self._sums = torch.zeros(len(STATISTICS) + 1, device=device)
        self._statistics, self._norms = self._sums[:-1], self._sums[-1]  # views
        self._num_summed = 0

    def take_step(self, step: int) -> None:
        """Optimizer step `step`, counted from 0; nothing waits for the device."""
        # NOTE: dropout is seeded by the step, so a run that goes on draws what it would have drawn.
        seed_device(self.device, mix_seed(self.seed, step, 1))
        start = step * self.items_per_step
        end = min(start + self.items_per_step, self.num_items)
        self.optimizer.zero_grad(set_to_none=True)
        for first in range(start, end, self.items_per_batch):
            items = self._stream.read(first, min(first + self.items_per_batch, end))
            share = len(items) / (end - start)  # accumulated batches equal one large batch
            with self._autocast():
                loss, measured = self.objective.measure(self.model.head, items)
            (loss * share).backward()
            self._statistics.add_(measured, alpha=share)
        self._norms += self._clip_gradients()
        self.learning_rate = self.settings.value_head_learning_rate * learning_rate_factor(
            step, self.num_steps, self.settings.lr_scheduler
        )
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.optimizer.step()
        self._num_summed += 1

    def read_means(self, num_done: int) -> dict[str, float]:
        """Means since the last call; here, and only here, the host waits for the device.

        Raises:
            TrainingError: the loss or a gradient was NaN or inf.
        """
        means = (self._sums / max(1, self._num_summed)).tolist()
        self._sums.zero_()
        self._num_summed = 0
        named = dict(zip((*STATISTICS, "grad_norm"), means, strict=True))
        for name in ("loss", "grad_norm"):
            if not math.isfinite(named[name]):
                raise TrainingError(
                    f"{name} is {named[name]} by step {num_done}; lower "
                    f"training.value_head_learning_rate {self.settings.value_head_learning_rate} "
                    "or training.max_grad_norm"
                )
        return named | {"learning_rate": self.learning_rate}

    def _clip_gradients(self) -> torch.Tensor:
        """Scale the gradients down to max_grad_norm; returns their norm before.

        What torch.nn.utils.clip_grad_norm_ computes, at half its cost for three small tensors.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if self.settings.max_grad_norm is not None:
            scale = (self.settings.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale)
        return norm

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        if not self._uses_autocast:
            yield
            return
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield


def mix_seed(seed: int, *position: int) -> int:
    """One well-mixed seed for a place in a run: neighbours share nothing."""
    state = 0
    for number in (seed, *position):  # splitmix64, a step for each number
        state = (state + number + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the one generator that dropout on this device draws from."""
    # NOTE: torch.manual_seed would queue a call with its stack for CUDA where there is none, each
    # time: half a millisecond a step and memory that never comes back.
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
