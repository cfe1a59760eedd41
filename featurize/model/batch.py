"""The input of one forward pass: token ids, positions, and where the outputs are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import torch
from torch import Tensor, nn

from featurize.model.packing import PromptGroup


@dataclass(frozen=True, kw_only=True)
class PackLayout:
    """Bounds of prompts and outputs in a pack: all prompts first, then the outputs by group."""

    prompt_bounds: tuple[int, ...]  # [groups + 1] cumulative, from 0: prompt g is a slice of these
    output_bounds: tuple[int, ...]  # [outputs + 1] cumulative, from prompt_bounds[-1]
    group_bounds: tuple[int, ...]  # [groups + 1] output numbers: group g has outputs [a, b)
    prompt_starts: Tensor  # int32 [groups + 1], the same bounds on the device, for varlen kernels
    output_starts: Tensor  # int32 [outputs + 1], from 0
    group_starts: Tensor  # int32 [groups + 1], in output tokens, from 0
    longest_prompt: int
    longest_output: int
    longest_group: int  # most output tokens of one group
    # Modules that have attended by these bounds, and their windows: see structure.check_attended.
    attended: dict[nn.Module, int | None] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Input of one forward pass; outputs are given by positions in the flattened ids."""

    input_ids: Tensor  # int64 [batch, length]
    position_ids: Tensor  # int64 [batch, length]
    rows: Tensor  # int64 [outputs] feature row of each output
    starts: Tensor  # int64 [outputs] flat position of its first token
    lengths: Tensor  # int64 [outputs]
    before: Tensor  # int64 [outputs] flat position of the prompt's last token, which predicts it
    layout: PackLayout | None  # None: rows are independent sequences, right-padded
    num_tokens: int  # computed, padding and repeated prompts included


def make_pack(groups: Sequence[PromptGroup], device: torch.device) -> Batch:
    """Make one sequence [1, tokens] in which all outputs of a prompt share it.

    Positions restart at each prompt and continue from its end in each of its outputs.
    """
    outputs = [(len(group.prompt), out) for group in groups for out in group.outputs]
    prompt_bounds = _bounds(len(group.prompt) for group in groups)
    output_bounds = _bounds((len(out) for _, out in outputs), first=prompt_bounds[-1])
    group_bounds = _bounds(len(group.outputs) for group in groups)
    ids = chain(*(group.prompt for group in groups), *(out for _, out in outputs))
    positions = chain(
        *(range(len(group.prompt)) for group in groups),
        *(range(start, start + len(out)) for start, out in outputs),
    )
    group_tokens = [sum(map(len, group.outputs)) for group in groups]
    layout = PackLayout(
        prompt_bounds=prompt_bounds,
        output_bounds=output_bounds,
        group_bounds=group_bounds,
        prompt_starts=torch.tensor(prompt_bounds, dtype=torch.int32, device=device),
        output_starts=torch.tensor(output_bounds, dtype=torch.int32, device=device)
        - prompt_bounds[-1],
        group_starts=torch.tensor(_bounds(group_tokens), dtype=torch.int32, device=device),
        longest_prompt=max(len(group.prompt) for group in groups),
        longest_output=max(len(out) for _, out in outputs),
        longest_group=max(group_tokens),
    )
    ends = [
        end - 1 for end, group in zip(prompt_bounds[1:], groups, strict=True) for _ in group.outputs
    ]
    return Batch(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=torch.tensor([list(positions)], device=device),
        rows=torch.tensor([row for group in groups for row in group.rows], device=device),
        starts=torch.tensor(output_bounds[:-1], device=device),
        lengths=torch.tensor([len(out) for _, out in outputs], device=device),
        before=torch.tensor(ends, device=device),
        layout=layout,
        num_tokens=output_bounds[-1],
    )


def make_padded(
    singles: Sequence[PromptGroup], device: torch.device, *, length: int | None = None
) -> Batch:
    """Make a batch of (prompt, output) sequences, padded on the right to the longest or `length`.

    NOTE: there is no attention mask. Under causal attention no token sees the padding on its right,
    and kernels are faster without a mask.
    """
    sequences = [single.prompt + single.outputs[0] for single in singles]
    width = length or max(map(len, sequences))
    ids = torch.zeros((len(singles), width), dtype=torch.int64)
    for number, sequence in enumerate(sequences):
        ids[number, : len(sequence)] = torch.tensor(sequence)
    starts = torch.tensor(
        [number * width + len(single.prompt) for number, single in enumerate(singles)]
    )
    return Batch(
        input_ids=ids.to(device),
        position_ids=torch.arange(width, device=device).expand(len(singles), -1),
        rows=torch.tensor([single.rows[0] for single in singles], device=device),
        starts=starts.to(device),
        lengths=torch.tensor([len(single.outputs[0]) for single in singles], device=device),
        before=(starts - 1).to(device),
        layout=None,
        num_tokens=ids.numel(),
    )


def _bounds(lengths: Iterable[int], first: int = 0) -> tuple[int, ...]:
    """Cumulative sums from `first`."""
    return tuple(accumulate(lengths, initial=first))
