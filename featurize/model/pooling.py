"""Poolings: ways to reduce the hidden states of an output's tokens to one vector, or to segments.

To add one, write a function, add it to `POOLINGS` and its name to `settings.Pooling`.
Nothing here makes the host wait for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featurize.model.batch import Batch, Prefixes
from featurize.settings import Pooling


@dataclass(frozen=True, kw_only=True)
class OutputStates:
    """Hidden states of one layer, and those of the output tokens among them.

    With prefixes each of them is a row, else each output is. A state does not depend on what
    follows it, so the row of a prefix is that of the prefix alone; the row of a whole output is the
    same to the last bit whether there are prefixes or not.
    """

    hidden: Tensor  # [tokens, width], any float dtype
    tokens: Tensor  # [output tokens, width], one output after another
    lengths: Tensor  # int64 [outputs], tokens of each output, at least 1
    ends: Tensor  # int64 [rows], place in `hidden` of its last token, or of the last of its end
    before: Tensor  # int64 [rows], place in `hidden` of the last token of its prompt
    prefixes: Prefixes | None = None

    @classmethod
    def of(cls, hidden: Tensor, batch: Batch) -> "OutputStates":
        """Take those of a batch from hidden states [batch, length, width]; of a pack no copy."""
        flat, prefixes = hidden.flatten(0, 1), batch.prefixes
        return cls(
            hidden=flat,
            tokens=flat[batch.outputs],
            lengths=batch.lengths,
            ends=batch.ends if prefixes is None else prefixes.ends,
            before=batch.before if prefixes is None else batch.before[prefixes.outputs],
            prefixes=prefixes,
        )

    def reduce(self, how: str) -> Tensor:
        """Reduce the tokens of every row in float32: [rows, width]; how: sum, mean, min or max."""
        return reduce_outputs(self.tokens.float(), self.lengths, self.prefixes, how)


def _last(states: OutputStates) -> Tensor:
    """The last token of the output, or of its end."""
    return states.hidden[states.ends].float()


def _first(states: OutputStates) -> Tensor:
    """The last token of the prompt, which predicts the first one of the output."""
    return states.hidden[states.before].float()


def _std(states: OutputStates) -> Tensor:
    """Population standard deviation; 0 for a single token."""
    tokens = states.tokens.float()
    of_outputs = reduce_rows(_squares(tokens, states.lengths), states.lengths, "mean").sqrt()
    if states.prefixes is None:
        return of_outputs
    of_prefixes = _prefix_std(states, tokens, states.prefixes)
    of_prefixes[states.prefixes.wholes] = of_outputs
    return of_prefixes


def _prefix_std(states: OutputStates, tokens: Tensor, prefixes: Prefixes) -> Tensor:
    """Deviation within the pieces of a prefix, and of their means from the prefix's.

    The sums of squares are taken from a state of the output, as large states would cancel.

    Source: Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance (1983).
    """
    within = reduce_rows(_squares(tokens, prefixes.pieces), prefixes.pieces, "sum").double()
    means = reduce_rows(tokens, prefixes.pieces, "mean")
    shifted = means.double() - states.hidden[states.before].double()
    weights = _as_column(prefixes.pieces, shifted)
    mean = _per_token(_sum_up(weights * shifted, prefixes), prefixes)
    squares = _sum_up(within + weights * shifted.square(), prefixes)
    return (_per_token(squares, prefixes) - mean.square()).clamp_min(0).sqrt().float()


POOLINGS: dict[Pooling, Callable[[OutputStates], Tensor]] = {
    "mean": lambda states: states.reduce("mean"),
    "last": _last,
    "max": lambda states: states.reduce("max"),
    "std": _std,
    "first": _first,
    "delta": lambda states: _last(states) - _first(states),  # what the output changed
}
"""Functions of the output states, float32 [rows, width], by name."""


def reduce_rows(tokens: Tensor, lengths: Tensor, how: str) -> Tensor:
    """Reduce contiguous runs: [sum(lengths), ...] -> [runs, ...]; how: sum, mean, min or max.

    NOTE: unsafe leaves out the check that the lengths sum to the number of tokens, for which the
    host would wait; a batch is built that way.
    """
    return torch.segment_reduce(tokens, how, lengths=lengths, axis=0, unsafe=True)


def reduce_outputs(tokens: Tensor, lengths: Tensor, prefixes: Prefixes | None, how: str) -> Tensor:
    """Reduce every output, or every prefix of them: float32 [output tokens, ...] -> [rows, ...].

    Args:
        tokens: one output after another.
        lengths: of the outputs.
        prefixes: which get a row; None: the outputs.
        how: sum, mean, min or max.
    """
    of_outputs = reduce_rows(tokens, lengths, how)
    if prefixes is None:
        return of_outputs
    if how in ("min", "max"):
        accumulate: Callable[..., Any] = torch.cummin if how == "min" else torch.cummax
        pieces = reduce_rows(tokens, prefixes.pieces, how).split(prefixes.counts)
        rows = torch.cat([accumulate(own, dim=0).values for own in pieces])
    else:
        sums = _sum_up(reduce_rows(tokens, prefixes.pieces, "sum").double(), prefixes)
        rows = (_per_token(sums, prefixes) if how == "mean" else sums).float()
    rows[prefixes.wholes] = of_outputs
    return rows


def _squares(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Squared distance of each token from the mean of its run: [sum(lengths), width]."""
    mean = reduce_rows(tokens, lengths, "mean")
    of_tokens = torch.repeat_interleave(mean, lengths, dim=0, output_size=len(tokens))
    return (tokens - of_tokens).square()


def _sum_up(pieces: Tensor, prefixes: Prefixes) -> Tensor:
    """Add up the pieces of each output from its first on."""
    return torch.cat([own.cumsum(0) for own in pieces.split(prefixes.counts)])


def _per_token(sums: Tensor, prefixes: Prefixes) -> Tensor:
    return sums / _as_column(prefixes.lengths, sums)


def _as_column(numbers: Tensor, like: Tensor) -> Tensor:
    """Give numbers [n] the dtype and the number of axes of a tensor [n, ...]."""
    return numbers.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def segment_ends(lengths: Tensor, num_segments: int) -> Tensor:
    """Tokens up to the end of each segment: int64 [rows] -> int64 [rows, segments + 1], from 0.

    Of K segments of an output of n tokens the first k have ceil(k n / K) tokens: their lengths are
    almost equal and the first is never empty. If n < K, some of the others are empty.
    """
    places = torch.arange(num_segments + 1, device=lengths.device)
    return (lengths[:, None] * places + num_segments - 1) // num_segments


def segment_tokens(batch: Batch, num_segments: int) -> Tensor:
    """Count the tokens of each segment of every row of a batch: float32 [rows, segments]."""
    lengths = batch.lengths if batch.prefixes is None else batch.prefixes.lengths
    return segment_ends(lengths, num_segments).diff(dim=1).float()


def segment_means(tokens: Tensor, batch: Batch, num_segments: int) -> Tensor:
    """Average over the segments of every row of a batch, in float32; 0 over an empty one.

    The mean over the first segments, weighted by their tokens, is that of a prefix of the output.

    Args:
        tokens: [output tokens, width], one output after another.
        batch: whose outputs they are; with prefixes there is a row for each of them.
        num_segments: K.

    Returns:
        float32 [rows, segments * width]: one segment after another.
    """
    pieces = segment_ends(batch.lengths, num_segments).diff(dim=1)  # [outputs, segments]
    sums = reduce_rows(tokens.float(), pieces.flatten(), "sum")
    means = (sums / pieces.flatten().clamp_min(1)[:, None]).view(len(pieces), -1)
    if batch.prefixes is None:
        return means
    of_prefixes = _prefix_segments(tokens, batch.lengths, batch.prefixes, num_segments)
    of_prefixes[batch.prefixes.wholes] = means  # as without prefixes, to the last bit
    return of_prefixes


def _prefix_segments(
    tokens: Tensor, lengths: Tensor, prefixes: Prefixes, num_segments: int
) -> Tensor:
    """Average over the segments of prefixes, from cumulative sums in float64."""
    cumulative = torch.cat([tokens.new_zeros((1, tokens.shape[1])), tokens]).double().cumsum(0)
    starts = (lengths.cumsum(0) - lengths)[prefixes.outputs]  # [prefixes] place in `tokens`
    ends = segment_ends(prefixes.lengths, num_segments)
    sums = cumulative[starts[:, None] + ends].diff(dim=1)  # [prefixes, segments, width]
    return (sums / ends.diff(dim=1).clamp_min(1)[:, :, None]).flatten(1).float()
