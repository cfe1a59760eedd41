"""Pads optimizer steps to one shape, so that a device gets many steps in one upload.

On CUDA starting an operation takes longer than the operation does for a head. Steps of one shape
can be recorded once and replayed (`stepper.py`). All batches of a step are one pass: they are laid
out side by side, each with its own rows, so that every row has the dropout of its batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Floats32, Ints
from headtrain.metrics.groups import ranks_within
from headtrain.training.batches import HeadLayout

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

ROUNDING = 16
"""Rows and terms are padded to a multiple of this, which makes shapes few."""


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


def join_tables(arrays: Arrays) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Join the arrays of several steps, [steps, ...] by name: integers, then floats."""
    names = StepInputs._fields
    integers, floats = (
        np.concatenate([arrays[name] for name in part], axis=1) for part in (names[:4], names[4:])
    )
    return integers, floats


def pad_steps(heads: Sequence[HeadLayout], batches_per_step: int) -> tuple[Shape, Arrays]:
    """Lay out several steps in one shape: the arrays of `StepInputs` but rates, [steps, ...]."""
    num_steps = -(-(max(int(one.batches[-1]) for one in heads) + 1) // batches_per_step)
    rows = _round_up(max(np.bincount(one.row_batches).max() for one in heads))
    terms = _round_up(max(np.bincount(one.batches).max() for one in heads))
    outer = (num_steps, len(heads), batches_per_step)
    # NOTE: padding compares a value of its own batch with itself, at a share of 0.
    starts = np.arange(len(heads) * batches_per_step).reshape(1, *outer[1:], 1) * rows
    arrays: Arrays = {
        "rows": np.zeros((*outer, rows), np.int64),
        "first": np.broadcast_to(starts, (*outer, terms)).copy(),
        "second": np.broadcast_to(starts, (*outer, terms)).copy(),
        "labels": np.zeros((*outer, terms), np.float32),
        "shares": np.zeros((*outer, terms), np.float32),
    }
    for number, one in enumerate(heads):
        own = _place(one.row_batches, number, batches_per_step)
        arrays["rows"][own] = one.rows
        place = _place(one.batches, number, batches_per_step)
        start = starts[0, number, place[2], 0]
        arrays["first"][place] = one.first + start
        arrays["shares"][place] = one.shares
        if one.second is not None:
            arrays["second"][place] = one.second + start
        if one.terms.labels is not None:
            arrays["labels"][place] = one.terms.labels
    flat: Arrays = {name: array.reshape(num_steps, -1) for name, array in arrays.items()}
    is_paired = heads[0].second is not None
    sides = [flat["first"], flat["second"]] if is_paired else [flat["first"]]
    flat["uses"] = list_uses(sides, flat["shares"], flat["rows"].shape[1])
    uses = flat["uses"].shape[1] // flat["rows"].shape[1]
    return Shape(*outer[1:], rows, terms, uses, is_paired), flat


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


def _place(batches: Ints, head: int, batches_per_step: int) -> tuple[Ints, int, Ints, Ints]:
    """Positions of entries, sorted by their batch, in [steps, heads, batches, entries]."""
    steps, numbers = np.divmod(batches, batches_per_step)
    return steps, head, numbers, ranks_within(np.bincount(batches))


def _round_up(size: int) -> int:
    return -(-int(size) // ROUNDING) * ROUNDING
