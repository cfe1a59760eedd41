"""Poolings: ways to reduce the hidden states of an output's tokens to one vector.

To add one, write a function, add it to `POOLINGS`, and add its name to `settings.Pooling`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from featurize.settings import Pooling


def pool_segments(hidden: Tensor, starts: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """Pool contiguous runs of tokens in float32.

    Args:
        hidden: [tokens, width], any float dtype.
        starts: int64 [rows], first output token of each row.
        lengths: int64 [rows], number of output tokens, at least 1.
        pooling: a name in `POOLINGS`.

    Returns:
        float32 [rows, width].
    """
    return POOLINGS[pooling](hidden, starts, lengths)


def segment_index(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the flat positions of all runs, one after another: int64 [sum(lengths)]."""
    ends = lengths.cumsum(0)
    offset = torch.repeat_interleave(starts - (ends - lengths), lengths)
    return offset + torch.arange(len(offset), device=starts.device)


def _mean(hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    return _reduce(hidden[segment_index(starts, lengths)].float(), lengths, "mean")


def _max(hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    return _reduce(hidden[segment_index(starts, lengths)].float(), lengths, "max")


def _last(hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """The last token of the output."""
    return hidden[starts + lengths - 1].float()


def _std(hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Population standard deviation; 0 for a single token."""
    tokens = hidden[segment_index(starts, lengths)].float()
    mean = _reduce(tokens, lengths, "mean")
    deviation = tokens - torch.repeat_interleave(mean, lengths, dim=0)
    return _reduce(deviation.square(), lengths, "mean").sqrt()


def _reduce(tokens: Tensor, lengths: Tensor, how: str) -> Tensor:
    """[sum(lengths), width] -> [rows, width]."""
    return torch.segment_reduce(tokens, how, lengths=lengths, axis=0)


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "last": _last,
    "max": _max,
    "std": _std,
}
"""Functions of (hidden, starts, lengths), as `pool_segments` describes them, by name."""
