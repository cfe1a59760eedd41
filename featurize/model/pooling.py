"""Poolings: ways to reduce the hidden states of an output's tokens to one vector.

To add one, write a function, add it to `POOLINGS`, one for every prefix of an output to
`PREFIX_POOLINGS`, and its name to `settings.Pooling`.
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
    """Hidden states of one layer, and those of the output tokens among them."""

    hidden: Tensor  # [tokens, width], any float dtype
    tokens: Tensor  # [output tokens, width], one output after another
    lengths: Tensor  # int64 [rows], tokens of each output, at least 1
    ends: Tensor  # int64 [rows], place in `hidden` of its last token, or of the last of its end
    before: Tensor  # int64 [rows], place in `hidden` of the last token of its prompt


def output_states(hidden: Tensor, batch: Batch) -> OutputStates:
    """Take the states of the outputs of a batch; of a pack without a copy.

    Args:
        hidden: [batch, length, width].
        batch: where the outputs are.
    """
    flat = hidden.flatten(0, 1)
    return OutputStates(
        hidden=flat,
        tokens=flat[batch.outputs],
        lengths=batch.lengths,
        ends=batch.ends,
        before=batch.before,
    )


def pool(states: OutputStates, pooling: Pooling) -> Tensor:
    """Pool the tokens of each output in float32: [rows, width]."""
    return POOLINGS[pooling](states)


def _mean(states: OutputStates) -> Tensor:
    return reduce_rows(states.tokens.float(), states.lengths, "mean")


def _max(states: OutputStates) -> Tensor:
    return reduce_rows(states.tokens.float(), states.lengths, "max")


def _last(states: OutputStates) -> Tensor:
    """The last token of the output, or of its end."""
    return states.hidden[states.ends].float()


def _first(states: OutputStates) -> Tensor:
    """The last token of the prompt, which predicts the first one of the output."""
    return states.hidden[states.before].float()


def _delta(states: OutputStates) -> Tensor:
    """What the output changed: last minus first."""
    return _last(states) - _first(states)


def _std(states: OutputStates) -> Tensor:
    """Population standard deviation; 0 for a single token."""
    tokens = states.tokens.float()
    mean = reduce_rows(tokens, states.lengths, "mean")
    of_tokens = torch.repeat_interleave(mean, states.lengths, dim=0, output_size=len(tokens))
    return reduce_rows((tokens - of_tokens).square(), states.lengths, "mean").sqrt()


def reduce_rows(tokens: Tensor, lengths: Tensor, how: str) -> Tensor:
    """Reduce contiguous runs: [sum(lengths), ...] -> [rows, ...]; how: sum, mean, min or max.

    NOTE: unsafe leaves out the check that the lengths sum to the number of tokens, for which the
    host would wait; a batch is built that way.
    """
    return torch.segment_reduce(tokens, how, lengths=lengths, axis=0, unsafe=True)


POOLINGS: dict[Pooling, Callable[[OutputStates], Tensor]] = {
    "mean": _mean,
    "last": _last,
    "max": _max,
    "std": _std,
    "first": _first,
    "delta": _delta,
}
"""Functions of the output states, float32 [rows, width], by name."""


def prefix_pool(states: OutputStates, pooling: Pooling, prefixes: Prefixes) -> Tensor:
    """Pool every prefix of each output in float32: [prefixes, width].

    The states of a prefix do not depend on what follows it, so each is what `pool` gives for the
    prefix alone. That of a whole output is what `pool` gives, to the last bit.
    """
    found = PREFIX_POOLINGS[pooling](states, prefixes)
    found[prefixes.wholes] = pool(states, pooling)
    return found


def reduce_prefixes(tokens: Tensor, prefixes: Prefixes, how: str) -> Tensor:
    """Reduce every prefix: float32 [output tokens, ...] -> float32 [prefixes, ...].

    Args:
        tokens: one output after another.
        prefixes: which.
        how: sum, mean, min or max.
    """
    if how in ("min", "max"):
        pieces = reduce_rows(tokens, prefixes.pieces, how)
        return _accumulate(pieces, prefixes, torch.cummin if how == "min" else torch.cummax)
    sums = _sum_up(reduce_rows(tokens, prefixes.pieces, "sum").double(), prefixes)
    return (_per_token(sums, prefixes) if how == "mean" else sums).float()


def _accumulate(pieces: Tensor, prefixes: Prefixes, how: Callable[..., Any]) -> Tensor:
    """Reduce the pieces of each output from its first on, with cummin or cummax."""
    return torch.cat([how(own, dim=0).values for own in pieces.split(prefixes.counts)])


def _sum_up(pieces: Tensor, prefixes: Prefixes) -> Tensor:
    """Add up the pieces of each output from its first on."""
    return torch.cat([own.cumsum(0) for own in pieces.split(prefixes.counts)])


def _per_token(sums: Tensor, prefixes: Prefixes) -> Tensor:
    return sums / _as_column(prefixes.lengths, sums)


def _as_column(numbers: Tensor, like: Tensor) -> Tensor:
    """Give numbers [n] the dtype and the number of axes of a tensor [n, ...]."""
    return numbers.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _prefix_std(states: OutputStates, prefixes: Prefixes) -> Tensor:
    """Deviation within the pieces of a prefix, and of their means from the prefix's.

    The sums of squares are taken from a state of the output, as large states would cancel.

    Source: Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance (1983).
    """
    tokens = states.tokens.float()
    means = reduce_rows(tokens, prefixes.pieces, "mean")
    of_tokens = torch.repeat_interleave(means, prefixes.pieces, dim=0, output_size=len(tokens))
    within = reduce_rows((tokens - of_tokens).square(), prefixes.pieces, "sum").double()
    origins = states.hidden[states.before].double()[prefixes.outputs]
    shifted = means.double() - origins
    weights = _as_column(prefixes.pieces, shifted)
    mean = _per_token(_sum_up(weights * shifted, prefixes), prefixes)
    squares = _sum_up(within + weights * shifted.square(), prefixes)
    return (_per_token(squares, prefixes) - mean.square()).clamp_min(0).sqrt().float()


def _prefix_last(states: OutputStates, prefixes: Prefixes) -> Tensor:
    return states.hidden[prefixes.ends].float()


def _prefix_first(states: OutputStates, prefixes: Prefixes) -> Tensor:
    return _first(states)[prefixes.outputs]


PREFIX_POOLINGS: dict[Pooling, Callable[[OutputStates, Prefixes], Tensor]] = {
    "mean": lambda states, prefixes: reduce_prefixes(states.tokens.float(), prefixes, "mean"),
    "last": _prefix_last,
    "max": lambda states, prefixes: reduce_prefixes(states.tokens.float(), prefixes, "max"),
    "std": _prefix_std,
    "first": _prefix_first,
    "delta": lambda states, prefixes: (
        _prefix_last(states, prefixes) - _prefix_first(states, prefixes)
    ),
}
"""The same poolings of every prefix, float32 [prefixes, width], by name."""
