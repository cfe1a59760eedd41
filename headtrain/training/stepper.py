"""Takes optimizer steps of one shape, on CUDA as replays of a recorded graph.

The tables of many steps are uploaded at once. A step copies its rows of them into buffers with
fixed addresses and draws its dropout; all else reads only these buffers, so it can be recorded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from headtrain.features.memory import gather
from headtrain.training.batched_heads import BatchedHeads, Dropout
from headtrain.training.batches import BatchMaker
from headtrain.training.loss import Loss
from headtrain.training.padded import Shape, StepInputs, join_tables, pad_steps, sum_by_value

STEPS_AT_ONCE = 256
"""Most steps of an upload: their tables take about 1 MB for one head with batches of 32 pairs."""

NUMBERS_AT_ONCE = 2**22
"""About the most numbers of an upload, so that large batches of many heads are fewer steps."""

NUMBERS_PER_TERM = 8
"""About: two rows, each with its uses, two places among the values, label and share."""

Run = Callable[[], None]

logger = logging.getLogger(__name__)


def record_graph(run: Run) -> Run:
    """Record the CUDA operations of `run` without running them; the result runs them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def steps_at_once(batches: BatchMaker) -> int:
    """Return how many steps are uploaded together; it depends on the settings alone."""
    objective = batches.objectives[0]
    terms = batches.items_per_step * len(objective.first) / objective.num_items
    numbers = NUMBERS_PER_TERM * terms * len(batches.objectives)
    return max(1, min(STEPS_AT_ONCE, int(NUMBERS_AT_ONCE / numbers)))


class _Chunk(NamedTuple):
    """Several steps, ready to be taken."""

    number: int
    shape: Shape
    integers: torch.Tensor  # [steps, ...] on the device
    floats: torch.Tensor  # [steps, ...] on the device
    rows: torch.Tensor  # int64 [steps, values] feature rows, in host memory


@dataclass
class _Slot:
    """The buffers of one shape, and how a step runs on them."""

    integers: torch.Tensor
    floats: torch.Tensor
    features: torch.Tensor | None  # [values, width]; None: the step gathers them itself
    words: torch.Tensor | None  # random numbers of the dropout
    run: Run
    has_run: bool = False
    is_recorded: bool = False


class Stepper:
    """Takes steps; those of one shape run the same operations on the same buffers."""

    def __init__(
        self,
        *,
        heads: BatchedHeads,
        batches: BatchMaker,
        loss: Loss,
        dropout: Dropout,
        device: torch.device,
        rates_of: Callable[[int], list[float]],
        measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
        update: Callable[[torch.Tensor], None],
        record: Callable[[Run], Run] | None,
    ) -> None:
        """Prepare to take steps.

        Args:
            heads, batches, loss, dropout: parts of the trainer.
            device: where the heads are.
            rates_of: learning rates of a step, [heads].
            measure: takes the values of a step's terms and their shares, for the running means.
            update: takes the optimizer step, given the learning rates [heads].
            record: makes a faster function of one that runs a step; None: steps run as they are.
        """
        self.features = batches.objectives[0].features
        self._heads, self._batches, self._loss, self._dropout = heads, batches, loss, dropout
        self._device = device
        self._rates_of, self._measure, self._update = rates_of, measure, update
        self._record = record
        self._steps_at_once = steps_at_once(batches)
        self._chunk: _Chunk | None = None
        self._slots: dict[Shape, _Slot] = {}

    @property
    def _is_near(self) -> bool:
        """Whether the features are on the device, so that a recorded step can gather them."""
        return self.features.device.type == self._device.type

    def take(self, step: int) -> None:
        """Take optimizer step `step`, counted from 0, without waiting for the device."""
        number, offset = divmod(step, self._steps_at_once)
        if self._chunk is None or self._chunk.number != number:
            self._chunk = self._upload(number)
        chunk = self._chunk
        if chunk.shape not in self._slots:
            self._slots[chunk.shape] = self._make_slot(chunk)
        slot = self._slots[chunk.shape]
        self._fill(slot, chunk, offset, step)
        # NOTE: the first step of a shape runs as it is, so that libraries start outside of a graph.
        if slot.has_run and not slot.is_recorded:
            slot.run, slot.is_recorded = self._recorded(slot.run), True
        slot.run()
        slot.has_run = True

    def _upload(self, number: int) -> _Chunk:
        start = number * self._steps_at_once
        layouts = self._batches.lay_out(start, self._steps_at_once)
        shape, arrays = pad_steps(layouts, self._batches.batches_per_step)
        rates = [self._rates_of(start + place) for place in range(len(arrays["rows"]))]
        arrays["rates"] = np.array(rates, np.float32)
        integers, floats = (_to_device(table, self._device) for table in join_tables(arrays))
        return _Chunk(number, shape, integers, floats, torch.from_numpy(arrays["rows"]))

    def _make_slot(self, chunk: _Chunk) -> _Slot:
        shape = chunk.shape
        size = (shape.num_values, self.features.shape[1])
        slot = _Slot(
            integers=torch.empty_like(chunk.integers[0]),
            floats=torch.empty_like(chunk.floats[0]),
            features=None if self._is_near else torch.empty(size, device=self._device),
            words=None
            if self._dropout.is_off
            else self._dropout.make_words(shape.batches, shape.rows),
            run=lambda: self._run(shape, slot),
        )
        return slot

    def _fill(self, slot: _Slot, chunk: _Chunk, offset: int, step: int) -> None:
        slot.integers.copy_(chunk.integers[offset])
        slot.floats.copy_(chunk.floats[offset])
        if slot.words is not None:
            self._dropout.fill(slot.words, step)
        if slot.features is not None:
            slot.features.copy_(gather(self.features, chunk.rows[offset], self._device))

    def _run(self, shape: Shape, slot: _Slot) -> None:
        """Compute gradients and take the step, from the buffers of the slot alone."""
        inputs, features = StepInputs.of(shape, slot.integers, slot.floats), slot.features
        if features is None:
            features = self.features.index_select(0, inputs.rows)  # [values, width]
        masks = None if slot.words is None else self._dropout.masks(slot.words)
        flow = features.view(*self._heads.heads, shape.batches * shape.rows, -1)
        values = self._heads.forward(flow, masks)  # [*heads, batches * rows]
        first = values.reshape(-1).index_select(0, inputs.first)  # [terms]
        other = inputs.labels
        if shape.is_paired:
            other = values.reshape(-1).index_select(0, inputs.second)
        sides = [side for side in self._loss.gradients(first, other) if side is not None]
        parts = [side * inputs.shares for side in sides]
        gradient = sum_by_value(parts, inputs.uses, shape)
        self._heads.backward(gradient.view(values.shape), accumulate=False)
        self._measure(first, other, inputs.shares)
        self._update(inputs.rates)

    def _recorded(self, run: Run) -> Run:
        if self._record is None:
            return run
        try:
            return self._record(run)
        except RuntimeError as error:
            line = str(error).partition("\n")[0]
            logger.warning(
                "a step cannot be recorded as a CUDA graph, so it stays slower: %s", line
            )
            return run


def _to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
