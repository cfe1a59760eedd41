"""Takes optimizer steps padded to one shape, on CUDA as replays of a recorded graph.

On CUDA starting an operation takes longer than the operation does for a head, so steps of one shape
are recorded once and replayed. All batches of a step are one pass: they are laid out side by side,
each with its own rows, so that every row has the dropout of its batch. The tables of many steps are
uploaded at once. A step copies its rows of them into buffers with fixed addresses and draws its
dropout; all else reads only these buffers, so it can be recorded.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Floats32, Ints
from headtrain.features.memory import gather
from headtrain.metrics.groups import ranks_within
from headtrain.training.batched_heads import BatchedHeads
from headtrain.training.batches import BatchMaker, HeadLayout, Tables, fill_tables
from headtrain.training.loop import HeadJob, Trainer

STEPS_AT_ONCE = 256
"""Most steps of an upload: their tables take about 1 MB for one head with batches of 32 pairs."""

NUMBERS_AT_ONCE = 2**22
"""About the most numbers of an upload, so that large batches of many heads are fewer steps."""

NUMBERS_PER_TERM = 8
"""About: two rows, each with its uses, two places among the values, label and share."""

ROUNDING = 16
"""Rows and terms are padded to a multiple of this, which makes shapes few."""

Run = Callable[[], None]

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """The shape of a padded step; its values are [heads, batches, rows], flattened."""

    heads: int
    batches: int  # of a step
    rows: int  # of a batch
    terms: int  # of a batch
    uses: int  # most terms that use one value
    is_paired: bool

    @property
    def num_values(self) -> int:
        """Number of values of a step."""
        return self.heads * self.batches * self.rows

    @property
    def num_terms(self) -> int:
        """Number of terms of a step."""
        return self.heads * self.batches * self.terms


class StepInputs(NamedTuple):
    """The inputs of one step, views of two tensors: one of integers, one of floats."""

    rows: torch.Tensor  # int64 [values] feature rows
    first: torch.Tensor  # int64 [terms] value of the correct or the only sample
    second: torch.Tensor  # int64 [terms] value of the incorrect sample; unused without pairs
    uses: torch.Tensor  # int64 [values * uses] terms of each value: see `sum_by_value`
    labels: torch.Tensor  # float32 [terms]; unused with pairs
    shares: torch.Tensor  # float32 [terms] weight in the step's loss; 0 for padding
    rates: torch.Tensor  # float32 [heads] learning rates

    @classmethod
    def of(cls, shape: Shape, integers: torch.Tensor, floats: torch.Tensor) -> "StepInputs":
        """View the parts of a row of the tables that `join_tables` makes."""
        values, terms = shape.num_values, shape.num_terms
        whole = integers.split([values, terms, terms, values * shape.uses])
        return cls(*whole, *floats.split([terms, terms, shape.heads]))


def join_tables(arrays: Tables) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Join the arrays of several steps, [steps, ...] by name: integers, then floats."""
    names = StepInputs._fields
    integers, floats = (
        np.concatenate([arrays[name] for name in part], axis=1) for part in (names[:4], names[4:])
    )
    return integers, floats


def pad_steps(heads: Sequence[HeadLayout], batches_per_step: int) -> tuple[Shape, Tables]:
    """Lay out several steps in one shape: the arrays of `StepInputs` but rates, [steps, ...]."""
    num_steps = -(-(max(int(one.batches[-1]) for one in heads) + 1) // batches_per_step)
    rows = _round_up(max(np.bincount(one.row_batches).max() for one in heads))
    terms = _round_up(max(np.bincount(one.batches).max() for one in heads))
    num_heads, num_blocks = len(heads), num_steps * len(heads) * batches_per_step

    def block_of(head: int, batches: Ints) -> Ints:  # of [steps, heads, batches]
        steps, numbers = np.divmod(batches, batches_per_step)
        return np.asarray((steps * num_heads + head) * batches_per_step + numbers)

    tables = fill_tables(
        heads,
        block_of,
        row_sizes=np.full(num_blocks, rows),
        term_sizes=np.full(num_blocks, terms),
        value_starts=np.arange(num_blocks) % (num_heads * batches_per_step) * rows,
    )
    flat = {name: table.reshape(num_steps, -1) for name, table in tables.items()}
    is_paired = heads[0].second is not None
    sides = [flat["first"], flat["second"]] if is_paired else [flat["first"]]
    flat["uses"] = list_uses(sides, flat["shares"], flat["rows"].shape[1])
    uses = flat["uses"].shape[1] // flat["rows"].shape[1]
    return Shape(num_heads, batches_per_step, rows, terms, uses, is_paired), flat


def list_uses(sides: Sequence[Ints], shares: Floats32, num_values: int) -> Ints:
    """List for each value the terms that use it, [steps, num_values * most uses].

    `sides` are the indices of values in terms, [steps, terms] each. A use is the place of the term
    in the concatenated sides; unused places are the one past the end. Terms without a share are
    left out.
    """
    steps, num_terms = shares.shape
    empty = len(sides) * num_terms
    step, term = np.nonzero(shares)
    keys = np.concatenate([step * num_values + side[step, term] for side in sides])
    places = np.concatenate([term + number * num_terms for number in range(len(sides))])
    order = np.argsort(keys, kind="stable")
    values, counts = np.unique(keys, return_counts=True)
    most = 1 << (int(counts.max(initial=1)) - 1).bit_length()  # a power of two: few shapes
    uses = np.full((steps * num_values, most), empty)
    uses[np.repeat(values, counts), ranks_within(counts)] = places[order]
    return uses.reshape(steps, -1)


def sum_by_value(parts: Sequence[torch.Tensor], uses: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Sum the gradients of terms, [terms] for each side, by the value they belong to: [values].

    Always in the same order, while `index_add_` on CUDA adds in any.
    """
    padded = torch.cat([*parts, torch.zeros_like(parts[0][:1])])
    return padded.index_select(0, uses).view(shape.num_values, shape.uses).sum(1)


def _round_up(size: int) -> int:
    return -(-int(size) // ROUNDING) * ROUNDING


def make_trainer(
    jobs: Sequence[HeadJob], *, device: torch.device, mixed_precision: bool
) -> Trainer:
    """Make what trains the heads: on CUDA padded and recorded steps, but for heads on segments."""
    is_padded = device.type == "cuda" and jobs[0].model.spec.layout is None
    kind = PaddedTrainer if is_padded else Trainer
    return kind(jobs, device=device, mixed_precision=mixed_precision)


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


class PaddedTrainer(Trainer):
    """Takes padded steps; those of one shape run the same operations on the same buffers.

    The weights are those of `Trainer` but for rounding, with the dropout of the same device.
    """

    heads: BatchedHeads

    def __init__(
        self,
        jobs: Sequence[HeadJob],
        *,
        device: torch.device,
        mixed_precision: bool,
        record: Callable[[Run], Run] | None = None,
    ) -> None:
        """`record` makes a faster function of one that runs a step; default: on CUDA a graph."""
        super().__init__(jobs, device=device, mixed_precision=mixed_precision)
        self.features = self.jobs[0].objective.features
        self._record = record or (record_graph if device.type == "cuda" else None)
        self._steps_at_once = steps_at_once(self.batches)
        self._chunk: _Chunk | None = None
        self._slots: dict[Shape, _Slot] = {}

    @property
    def _is_near(self) -> bool:
        """Whether the features are on the device, so that a recorded step can gather them."""
        return self.features.device.type == self.device.type

    def step(self, step: int) -> None:
        """Compute the gradients of a step and update the weights, in one pass."""
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
        layouts = self.batches.lay_out(start, self._steps_at_once)
        shape, arrays = pad_steps(layouts, self.batches.batches_per_step)
        rates = [self.rates_of(start + place) for place in range(len(arrays["rows"]))]
        arrays["rates"] = np.array(rates, np.float32)
        integers, floats = (_to_device(table, self.device) for table in join_tables(arrays))
        return _Chunk(number, shape, integers, floats, torch.from_numpy(arrays["rows"]))

    def _make_slot(self, chunk: _Chunk) -> _Slot:
        shape = chunk.shape
        size = (shape.num_values, self.features.shape[1])
        slot = _Slot(
            integers=torch.empty_like(chunk.integers[0]),
            floats=torch.empty_like(chunk.floats[0]),
            features=None if self._is_near else torch.empty(size, device=self.device),
            words=None
            if self.dropout.is_off
            else self.dropout.make_words(shape.batches, shape.rows),
            run=lambda: self._run(shape, slot),
        )
        return slot

    def _fill(self, slot: _Slot, chunk: _Chunk, offset: int, step: int) -> None:
        slot.integers.copy_(chunk.integers[offset])
        slot.floats.copy_(chunk.floats[offset])
        if slot.words is not None:
            self.dropout.fill(slot.words, step)
        if slot.features is not None:
            slot.features.copy_(gather(self.features, chunk.rows[offset], self.device))

    def _run(self, shape: Shape, slot: _Slot) -> None:
        """Compute gradients and take the step, from the buffers of the slot alone."""
        inputs, features = StepInputs.of(shape, slot.integers, slot.floats), slot.features
        if features is None:
            features = self.features.index_select(0, inputs.rows)  # [values, width]
        masks = None if slot.words is None else self.dropout.masks(slot.words)
        flow = features.view(*self.heads.heads, shape.batches * shape.rows, -1)
        values = self.heads.forward(flow, masks)  # [*heads, batches * rows]
        first = values.reshape(-1).index_select(0, inputs.first)  # [terms]
        other = inputs.labels
        if shape.is_paired:
            other = values.reshape(-1).index_select(0, inputs.second)
        sides = [side for side in self.loss.gradients(first, other) if side is not None]
        parts = [side * inputs.shares for side in sides]
        gradient = sum_by_value(parts, inputs.uses, shape)
        self.heads.backward(gradient.view(values.shape), accumulate=False)
        self.means.measure(first, other, inputs.shares)
        self.update(inputs.rates)

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
