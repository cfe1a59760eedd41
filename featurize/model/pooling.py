"""Poolings: ways to reduce the hidden states of an output's tokens to one vector.

To add one, write a function, add it to `POOLINGS`, and add its name to `settings.Pooling`.
Nothing here makes the host wait for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featurize.model.batch import Batch
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
