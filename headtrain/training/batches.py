"""Lays out batches: which feature rows a batch scores, and which values its loss compares.

The items of all epochs form one stream, epoch after epoch in a new random order, and step s takes
the next batches of it. So only the very last batch may be short, nothing is dropped at the end of
an epoch, and the position of a run is one number. A row is scored once per batch, however many
terms use it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Floats32, Ints
from headtrain.metrics.groups import ranks_within
from headtrain.pairs.rng import mix_seed
from headtrain.training.objective import Objective, Terms

Tables: TypeAlias = dict[str, npt.NDArray[Any]]

STEPS_AT_ONCE = 32
"""Optimizer steps laid out together, which makes the cost per step negligible."""


class Batch(NamedTuple):
    """One forward and backward pass of h heads with r rows and t terms each, padded to the longest.

    Indices are into the h * r values of the forward.
    """

    num_rows: int  # r
    rows: torch.Tensor  # [h * r] feature rows, on the device of the features
    first: torch.Tensor  # [h * t] index of the value of the correct or the only sample
    second: torch.Tensor | None  # [h * t] index of the value of the incorrect sample
    labels: torch.Tensor | None  # [h * t]
    shares: torch.Tensor  # [h * t] weight in the step's loss; 0 for padding


class ItemStream:
    """The order in which the epochs visit the items; any range of it can be read."""

    def __init__(self, num_items: int, seed: int) -> None:
        self.num_items = num_items
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def read(self, start: int, end: int) -> Ints:
        """Return the items at positions [start, end) of the stream."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < end:
            epoch, offset = divmod(start, self.num_items)
            length = min(end - start, self.num_items - offset)
            parts.append(self._epoch_order(epoch)[offset : offset + length])
            start += length
        return np.concatenate(parts)

    def _epoch_order(self, epoch: int) -> Ints:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, 0))
            order = torch.randperm(self.num_items, generator=generator)
            self._epoch, self._order = epoch, order.numpy()
        return self._order


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """Several batches of one head."""

    terms: Terms
    batches: Ints  # [terms] batch of each term
    rows: Ints  # [distinct] feature rows, batch after batch
    row_batches: Ints  # [distinct] batch of each row
    first: Ints  # [terms] index of the first sample among the rows of its batch
    second: Ints | None  # [terms]
    shares: Floats32  # [terms]


class BatchMaker:
    """Lays out the batches of several heads, a few steps ahead."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        seeds: Sequence[int],
        *,
        batch_size: int,
        batches_per_step: int,
        num_items: int,
        device: torch.device,
    ) -> None:
        """All objectives have equally many items; num_items are visited over all epochs."""
        self.objectives = objectives
        self.items_per_batch = objectives[0].items_per_batch(batch_size)
        self.items_per_step = self.items_per_batch * batches_per_step
        self.batches_per_step = batches_per_step
        self.num_items = num_items
        self.device = device
        self._streams = [
            ItemStream(objective.num_items, seed)
            for objective, seed in zip(objectives, seeds, strict=True)
        ]
        self._chunk = -1
        self._batches: list[Batch] = []

    def read(self, step: int) -> list[Batch]:
        """Return the batches of an optimizer step."""
        chunk, offset = divmod(step, STEPS_AT_ONCE)
        if chunk != self._chunk:
            heads = self.lay_out(chunk * STEPS_AT_ONCE, STEPS_AT_ONCE)
            self._batches, self._chunk = self._combine(heads), chunk
        start = offset * self.batches_per_step
        return self._batches[start : start + self.batches_per_step]

    def lay_out(self, first_step: int, num_steps: int) -> list[HeadLayout]:
        """Lay out the batches of some steps, for every head; the stream may end before them."""
        start = first_step * self.items_per_step
        end = min(start + num_steps * self.items_per_step, self.num_items)
        return [self._lay_out(head, start, end) for head in range(len(self.objectives))]

    def _lay_out(self, head: int, start: int, end: int) -> HeadLayout:
        terms = self.objectives[head].terms_of(self._streams[head].read(start, end))
        batches = terms.items // self.items_per_batch
        steps = batches // self.batches_per_step
        # NOTE: shares of the step, not of the batch, so accumulated batches equal one large batch.
        totals = np.bincount(steps, weights=terms.weights)
        rows = terms.first if terms.second is None else np.r_[terms.first, terms.second]
        both = batches if terms.second is None else np.r_[batches, batches]
        stride = int(rows.max()) + 1
        keys, indices = np.unique(both * stride + rows, return_inverse=True)
        row_batches, distinct = np.divmod(keys, stride)
        starts = np.searchsorted(row_batches, np.arange(batches[-1] + 1))
        indices = indices.reshape(-1) - starts[both]
        return HeadLayout(
            terms=terms,
            batches=batches,
            rows=distinct,
            row_batches=row_batches,
            first=indices[: len(batches)],
            second=None if terms.second is None else indices[len(batches) :],
            shares=(terms.weights / totals[steps]).astype(np.float32),
        )

    def _combine(self, heads: Sequence[HeadLayout]) -> list[Batch]:
        """Combine the heads: a batch has as many rows and terms as its longest head."""
        number = len(heads)
        num_rows = np.max([np.bincount(one.row_batches) for one in heads], axis=0)  # [batches]
        num_terms = np.max([np.bincount(one.batches) for one in heads], axis=0)
        tables = fill_tables(
            heads,
            lambda head, batches: batches * number + head,
            row_sizes=np.repeat(num_rows, number),
            term_sizes=np.repeat(num_terms, number),
            value_starts=(np.arange(number) * num_rows[:, None]).reshape(-1),
        )
        on_features = self.objectives[0].features.device
        rows = _split(tables["rows"], num_rows * number, on_features)
        first, second, labels, shares = (
            _split(tables[name], num_terms * number, self.device)
            for name in ("first", "second", "labels", "shares")
        )
        is_paired = heads[0].second is not None
        return [
            Batch(
                num_rows=int(num_rows[place]),
                rows=rows[place],
                first=first[place],
                second=second[place] if is_paired else None,
                labels=None if is_paired else labels[place],
                shares=shares[place],
            )
            for place in range(len(num_rows))
        ]


def fill_tables(
    heads: Sequence[HeadLayout],
    block_of: Callable[[int, Ints], Ints],
    *,
    row_sizes: Ints,
    term_sizes: Ints,
    value_starts: Ints,
) -> Tables:
    """Lay out the batches of all heads side by side, each padded to the size of its block.

    Args:
        heads: batches of each head.
        block_of: number of the block of a head's batches.
        row_sizes: rows of each block, [blocks].
        term_sizes: terms of each block, [blocks].
        value_starts: index of the block's first value among those of a pass, [blocks].

    Returns:
        rows [rows of all blocks], and first, second, labels, shares [terms of all blocks].
    """
    row_starts, term_starts = (np.cumsum(sizes) - sizes for sizes in (row_sizes, term_sizes))
    # NOTE: padding compares a value of its own block with itself, at a share of 0: NaN of another
    # head times 0 would be NaN.
    first = np.repeat(value_starts, term_sizes)
    second, rows = first.copy(), np.zeros(row_sizes.sum(), np.int64)
    labels, shares = np.zeros((2, len(first)), np.float32)
    for head, one in enumerate(heads):
        own = row_starts[block_of(head, one.row_batches)]
        rows[own + ranks_within(np.bincount(one.row_batches))] = one.rows
        blocks = block_of(head, one.batches)
        terms = term_starts[blocks] + ranks_within(np.bincount(one.batches))
        first[terms] = one.first + value_starts[blocks]
        shares[terms] = one.shares
        if one.second is not None:
            second[terms] = one.second + value_starts[blocks]
        if one.terms.labels is not None:
            labels[terms] = one.terms.labels
    return {"rows": rows, "first": first, "second": second, "labels": labels, "shares": shares}


def _split(
    column: npt.NDArray[np.generic], sizes: Ints, device: torch.device
) -> tuple[torch.Tensor, ...]:
    parts: tuple[torch.Tensor, ...] = torch.from_numpy(column).to(device).split(sizes.tolist())
    return parts
