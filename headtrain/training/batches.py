"""Turns items into batches: which feature rows a batch scores, and which values its loss compares.

The items of all epochs form one stream, epoch after epoch in fresh random order; step s takes the
next batches of it. So no batch is short but the very last, no tail is dropped, and where a run
stands is one number. A row is scored once a batch, however many terms of the loss it is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Ints
from headtrain.training.objective import Objective, Terms
from headtrain.training.seeds import mix_seed

STEPS_AT_ONCE = 32
"""Optimizer steps laid out together: enough to make the work a step negligible."""


class Batch(NamedTuple):
    """One forward and backward pass; h heads, r rows each, t terms each, the shorter padded."""

    num_rows: int  # r
    rows: torch.Tensor  # [h * r] rows of the features, where these lie; padded with any row
    first: torch.Tensor  # [h * t] places among the h * r values
    second: torch.Tensor | None  # [h * t]
    labels: torch.Tensor | None  # [h * t]
    shares: torch.Tensor  # [h * t] of the step's loss; 0 for padding


class ItemStream:
    """The order in which the epochs visit the items; any stretch of it can be asked for."""

    def __init__(self, num_items: int, seed: int) -> None:
        self.num_items = num_items
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def read(self, start: int, end: int) -> Ints:
        """Items [end - start] at these places of the stream."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < end:
            epoch, place = divmod(start, self.num_items)
            length = min(end - start, self.num_items - place)
            parts.append(self._epoch_order(epoch)[place : place + length])
            start += length
        return np.concatenate(parts)

    def _epoch_order(self, epoch: int) -> Ints:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, 0))
            order = torch.randperm(self.num_items, generator=generator)
            self._epoch, self._order = epoch, order.numpy()
        return self._order


@dataclass(frozen=True, kw_only=True)
class _Laid:
    """The terms of one head over several batches, before they are put beside those of others."""

    terms: Terms
    batches: Ints  # [terms] batch of each
    rows: Ints  # [distinct] feature rows, batch after batch
    row_batches: Ints  # [distinct] batch of each
    first: Ints  # [terms] place of the first sample among the rows of its batch
    second: Ints | None  # [terms]
    shares: npt.NDArray[np.float32]  # [terms]


class BatchMaker:
    """Lays out the batches of a stack of heads, a few steps ahead."""

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
        """All objectives have as many items; num_items are visited in all, over all epochs."""
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
        """The batches of an optimizer step."""
        chunk, place = divmod(step, STEPS_AT_ONCE)
        if chunk != self._chunk:
            start = chunk * STEPS_AT_ONCE * self.items_per_step
            end = min(start + STEPS_AT_ONCE * self.items_per_step, self.num_items)
            laid = [self._lay_out(head, start, end) for head in range(len(self.objectives))]
            self._batches, self._chunk = self._put_together(laid), chunk
        start = place * self.batches_per_step
        return self._batches[start : start + self.batches_per_step]

    def _lay_out(self, head: int, start: int, end: int) -> _Laid:
        terms = self.objectives[head].unfold(self._streams[head].read(start, end))
        batches = terms.items // self.items_per_batch
        steps = batches // self.batches_per_step
        # NOTE: shares of the step, not of the batch: accumulated batches equal one large batch.
        totals = np.bincount(steps, weights=terms.weights)
        rows = terms.first if terms.second is None else np.r_[terms.first, terms.second]
        both = batches if terms.second is None else np.r_[batches, batches]
        stride = int(rows.max()) + 1
        keys, places = np.unique(both * stride + rows, return_inverse=True)
        row_batches, distinct = np.divmod(keys, stride)
        starts = np.searchsorted(row_batches, np.arange(batches[-1] + 1))
        places = places.reshape(-1) - starts[both]
        return _Laid(
            terms=terms,
            batches=batches,
            rows=distinct,
            row_batches=row_batches,
            first=places[: len(batches)],
            second=None if terms.second is None else places[len(batches) :],
            shares=(terms.weights / totals[steps]).astype(np.float32),
        )

    def _put_together(self, laid: Sequence[_Laid]) -> list[Batch]:
        """Put the heads side by side: a batch has as many rows and terms as its longest head."""
        num_rows = np.max([np.bincount(one.row_batches) for one in laid], axis=0)  # [batches]
        num_terms = np.max([np.bincount(one.batches) for one in laid], axis=0)
        row_ends, term_ends = np.cumsum(num_rows * len(laid)), np.cumsum(num_terms * len(laid))
        rows = np.zeros(row_ends[-1], np.int64)
        # NOTE: padding compares a value of its own head: NaN of another times a share of 0 is NaN.
        own = np.arange(len(laid)) * num_rows[:, None]  # [batches, heads]
        first = np.repeat(own.reshape(-1), np.repeat(num_terms, len(laid)))
        second, labels = first.copy(), np.zeros(len(first), np.float32)
        shares = np.zeros(len(first), np.float32)
        for head, one in enumerate(laid):
            places = _places(one.row_batches, num_rows, row_ends, len(laid), head)
            rows[places] = one.rows
            places = _places(one.batches, num_terms, term_ends, len(laid), head)
            offsets = head * num_rows[one.batches]  # of its values among those of all heads
            first[places] = one.first + offsets
            shares[places] = one.shares
            if one.second is not None:
                second[places] = one.second + offsets
            if one.terms.labels is not None:
                labels[places] = one.terms.labels
        has_second, has_labels = laid[0].second is not None, laid[0].terms.labels is not None
        row_sizes, term_sizes = np.diff(row_ends, prepend=0), np.diff(term_ends, prepend=0)
        empty: list[torch.Tensor | None] = [None] * len(num_rows)
        columns = zip(
            num_rows.tolist(),
            self._split(rows, row_sizes, self.objectives[0].features.device),
            self._split(first, term_sizes),
            self._split(second, term_sizes) if has_second else empty,
            self._split(labels, term_sizes) if has_labels else empty,
            self._split(shares, term_sizes),
            strict=True,
        )
        return [Batch(*column) for column in columns]

    def _split(
        self, column: npt.NDArray[np.generic], sizes: Ints, device: torch.device | None = None
    ) -> tuple[torch.Tensor, ...]:
        parts: tuple[torch.Tensor, ...]
        parts = torch.from_numpy(column).to(device or self.device).split(sizes.tolist())
        return parts


def _places(batches: Ints, sizes: Ints, ends: Ints, num_heads: int, head: int) -> Ints:
    """Where the entries of one head go in a column that holds every batch's heads in turn."""
    starts = ends - sizes * num_heads + sizes * head  # [batches]
    counts = np.bincount(batches, minlength=len(sizes))
    within = np.arange(len(batches)) - (np.cumsum(counts) - counts)[batches]
    return starts[batches] + within
