"""The input of one forward pass: token ids, positions, and where the outputs are.

A batch is built as NumPy arrays in host memory, by any thread, and uploaded in one copy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor, nn

from featurize.model.packing import PromptGroup

Bounds = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WindowedKeys:
    """The keys that outputs see under a sliding window: the end of their prompt, and themselves."""

    places: Tensor  # int64 [keys]: all prompts, then for each output its prompt's end and itself
    starts: Tensor  # int32 [groups + outputs + 1], bounds in `places`
    longest: int  # most keys of one sequence


@dataclass(frozen=True, kw_only=True)
class PackLayout:
    """Bounds of prompts and outputs in a pack: all prompts first, then the outputs by group."""

    prompt_bounds: Bounds  # [groups + 1] cumulative, from 0: prompt g is a slice of these
    output_bounds: Bounds  # [outputs + 1] cumulative, from prompt_bounds[-1]
    group_bounds: Bounds  # [groups + 1] output numbers: group g has outputs [a, b)
    sequence_starts: Tensor  # int32 [groups + outputs + 1], on the device: prompts, then outputs
    prompt_starts: Tensor  # int32 [groups + 1]
    group_starts: Tensor  # int32 [groups + 1], in output tokens, from 0
    longest_prompt: int
    longest_output: int
    longest_group: int  # most output tokens of one group
    # Modules that have attended by these bounds, and their windows: see structure.check_attended.
    attended: dict[nn.Module, int | None] = field(default_factory=dict, compare=False, repr=False)
    _windows: dict[int, WindowedKeys] = field(default_factory=dict, compare=False, repr=False)

    def windowed(self, window: int) -> WindowedKeys:
        """Return the keys under a window of that many tokens; made once a batch and window."""
        if window not in self._windows:
            self._windows[window] = _windowed_keys(self, window)
        return self._windows[window]


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The prefixes of outputs that get a row, those of one output after another, ascending."""

    counts: list[int]  # [outputs] prefixes of each output, in host memory
    pieces: Tensor  # int64 [prefixes] tokens of each beyond the prefix before it
    lengths: Tensor  # int64 [prefixes] tokens of each
    ends: Tensor  # int64 [prefixes] flat position of its last token
    outputs: Tensor  # int64 [prefixes] number of its output
    wholes: Tensor  # int64 [outputs] number of the prefix that is the whole output


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Input of one forward pass; outputs are given by positions in the flattened ids."""

    input_ids: Tensor  # int64 [batch, length]
    position_ids: Tensor  # int64 [batch, length]
    rows: Tensor  # int64 [outputs, or prefixes] feature row of each, in host memory
    starts: Tensor  # int64 [outputs] flat position of its first token
    lengths: Tensor  # int64 [outputs], without what follows an output
    ends: Tensor  # int64 [outputs] flat position of its last token, or of the last of its end
    asked: Tensor  # int64 [outputs] flat position of the question's last token, which predicts
    before: Tensor  # int64 [outputs] flat position of the prompt's last token, which predicts it
    predictors: Tensor  # int64 [output tokens] flat position of the token that predicts each
    outputs: slice | Tensor  # the output tokens, one output after another: flat positions
    layout: PackLayout | None  # None: rows are independent sequences, right-padded
    num_tokens: int  # computed, padding and repeated prompts included
    prefixes: Prefixes | None = None  # None: a row per output


@dataclass(frozen=True, kw_only=True)
class PackBounds:
    """The bounds of a pack as plain numbers; `PackLayout` adds those that kernels read."""

    prompts: Bounds
    outputs: Bounds
    groups: Bounds
    group_tokens: Bounds  # [groups + 1] cumulative output tokens, from 0


@dataclass(frozen=True, kw_only=True)
class HostBatch:
    """A batch in host memory."""

    numbers: Tensor  # int64 [n]: all arrays one after another, pinned if a GPU will read them
    sizes: dict[str, int]  # length of each array by name, in their order
    shape: tuple[int, int]  # of the ids
    rows: Tensor  # int64 [outputs, or prefixes]
    prefix_counts: list[int]  # [outputs], or empty
    bounds: PackBounds | None  # of a pack
    first_output: int | None  # of a pack: its output tokens are the flat positions from here

    @property
    def num_tokens(self) -> int:
        """Tokens to compute, padding and repeated prompts included."""
        return self.shape[0] * self.shape[1]

    def to(self, device: torch.device) -> Batch:
        """Upload in one copy; where the host memory is pinned, without waiting for it."""
        numbers = self.numbers.to(device, non_blocking=True)
        parts = dict(zip(self.sizes, numbers.split(list(self.sizes.values())), strict=True))
        layout = None if self.bounds is None else _to_layout(self.bounds, parts["bounds"])
        places = parts.get("places")  # none where the outputs are all that follows the prompts
        return Batch(
            input_ids=parts["ids"].view(self.shape),
            position_ids=parts["positions"].view(-1, self.shape[1]).expand(self.shape),
            rows=self.rows,
            starts=parts["starts"],
            lengths=parts["lengths"],
            ends=parts["ends"],
            asked=parts["asked"],
            before=parts["before"],
            predictors=parts["predictors"],
            outputs=slice(self.first_output, None) if places is None else places,
            layout=layout,
            num_tokens=self.num_tokens,
            prefixes=self._prefixes(parts),
        )

    def _prefixes(self, parts: dict[str, Tensor]) -> Prefixes | None:
        if not self.prefix_counts:
            return None
        found = {name: parts[f"prefix_{name}"] for name in PREFIX_ARRAYS}
        return Prefixes(counts=self.prefix_counts, **found)


def make_pack(groups: Sequence[PromptGroup], device: torch.device) -> Batch:
    """Make one sequence [1, tokens] in which all outputs of a prompt share it.

    Positions restart at each prompt and continue from its end in each of its outputs.
    """
    return host_pack(groups).to(device)


def make_padded(
    singles: Sequence[PromptGroup], device: torch.device, *, length: int | None = None
) -> Batch:
    """Make a batch of (prompt, output) sequences, padded on the right to the longest or `length`.

    NOTE: there is no attention mask. Under causal attention no token sees the padding on its right,
    and kernels are faster without a mask.
    """
    return host_padded(singles, length=length).to(device)


def host_pack(groups: Sequence[PromptGroup], *, pinned: bool = False) -> HostBatch:
    """Build a pack in host memory; `pinned` for an upload to a GPU that does not wait."""
    outputs = [out for group in groups for out in group.outputs]
    prompt_lengths = _array(len(group.prompt) for group in groups)
    lengths = _array(map(len, outputs))
    counts = _array(len(group.outputs) for group in groups)
    prompts = _bounds(prompt_lengths)
    cut = prompts[-1]
    sequences = np.concatenate([prompt_lengths, lengths])
    firsts = np.concatenate([np.zeros_like(prompt_lengths), np.repeat(prompt_lengths, counts)])
    groups_of_outputs = _bounds(counts)
    output_bounds = _bounds(lengths, first=cut)
    group_tokens = (np.array(output_bounds)[np.array(groups_of_outputs)] - cut).tolist()
    bounds = PackBounds(
        prompts=prompts,
        outputs=output_bounds,
        groups=groups_of_outputs,
        group_tokens=tuple(group_tokens),
    )
    return _to_host(
        {
            "ids": _array(chain(*(group.prompt for group in groups), *outputs)),
            "positions": _runs(firsts, sequences),
            "bounds": _array((*prompts, *output_bounds[1:], *prompts, *bounds.group_tokens)),
            **_places(
                [group for group in groups for _ in group.outputs],
                starts=np.array(output_bounds[:-1]),
                lengths=lengths,
                before=np.repeat(np.array(prompts[1:]) - 1, counts),
                are_all=True,
            ),
            **_prefix_arrays(groups, np.array(output_bounds[:-1])),
        },
        shape=(1, output_bounds[-1]),
        groups=groups,
        bounds=bounds,
        pinned=pinned,
    )


def host_padded(
    singles: Sequence[PromptGroup], *, length: int | None = None, pinned: bool = False
) -> HostBatch:
    """Build a padded batch in host memory, as `make_padded` says."""
    sequences = [single.prompt + single.outputs[0] for single in singles]
    width = length or max(map(len, sequences))
    ids = np.zeros((len(singles), width), dtype=np.int64)
    for number, sequence in enumerate(sequences):
        ids[number, : len(sequence)] = sequence
    starts = _array(number * width + len(one.prompt) for number, one in enumerate(singles))
    lengths = _array(len(single.outputs[0]) for single in singles)
    return _to_host(
        {
            "ids": ids.ravel(),
            "positions": np.arange(width),
            **_places(singles, starts=starts, lengths=lengths, before=starts - 1, are_all=False),
            **_prefix_arrays(singles, starts),
        },
        shape=(len(singles), width),
        groups=singles,
        bounds=None,
        pinned=pinned,
    )


def _to_host(
    arrays: dict[str, np.ndarray],
    *,
    shape: tuple[int, int],
    groups: Sequence[PromptGroup],
    bounds: PackBounds | None,
    pinned: bool,
) -> HostBatch:
    numbers = torch.from_numpy(np.concatenate(list(arrays.values())))
    return HostBatch(
        numbers=numbers.pin_memory() if pinned else numbers,
        sizes={name: len(array) for name, array in arrays.items()},
        shape=shape,
        rows=torch.tensor([row for group in groups for row in _rows(group)], dtype=torch.int64),
        prefix_counts=[len(lengths) for group in groups for lengths in group.prefixes],
        bounds=bounds,
        first_output=None if bounds is None else bounds.prompts[-1],
    )


def _rows(group: PromptGroup) -> Sequence[int]:
    """The row of each output of a group, or of each prefix."""
    if not group.prefixes:
        return group.rows
    placed = zip(group.rows, group.prefixes, strict=True)
    return [first + place for first, lengths in placed for place in range(len(lengths))]


PREFIX_ARRAYS = ("pieces", "lengths", "ends", "outputs", "wholes")
"""Arrays of `Prefixes`."""


def _prefix_arrays(groups: Sequence[PromptGroup], starts: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays about the prefixes, none if no group wants any; `starts` are those of the outputs."""
    wanted = [lengths for group in groups for lengths in group.prefixes]
    if not wanted:
        return {}
    lengths = _array(chain(*wanted))
    counts = _array(map(len, wanted))
    outputs = np.repeat(np.arange(len(counts)), counts)
    wholes = counts.cumsum() - 1
    pieces = np.diff(lengths, prepend=0)
    firsts = wholes + 1 - counts
    pieces[firsts] = lengths[firsts]
    arrays = (pieces, lengths, starts[outputs] + lengths - 1, outputs, wholes)
    return {f"prefix_{name}": array for name, array in zip(PREFIX_ARRAYS, arrays, strict=True)}


def _places(
    groups: Sequence[PromptGroup],
    *,
    starts: np.ndarray,
    lengths: np.ndarray,
    before: np.ndarray,
    are_all: bool,
) -> dict[str, np.ndarray]:
    """Arrays about the outputs; see `Batch`.

    Args:
        groups: the group of each output.
        starts, lengths: [outputs] of each output and what follows it.
        before: [outputs] flat position of the last token of its prompt.
        are_all: whether the flat positions from the first start on are outputs alone.
    """
    num_end = _array(group.num_end for group in groups)
    num_question = _array(group.num_question for group in groups)
    own = lengths - num_end - num_question
    runs = _runs(starts, own)
    predictors = runs - 1
    predictors[own.cumsum() - own] = before
    is_plain = are_all and len(runs) == lengths.sum()
    return {
        "starts": starts,
        "lengths": own,
        "ends": starts + own + num_end - 1,
        "asked": starts + lengths - 1,
        "before": before,
        "predictors": predictors,
        **({} if is_plain else {"places": runs}),
    }


def _to_layout(bounds: PackBounds, on_device: Tensor) -> PackLayout:
    num_prompts = len(bounds.prompts)
    num_sequences = num_prompts + len(bounds.outputs) - 1
    sequence_starts, prompt_starts, group_starts = on_device.to(torch.int32).split(
        [num_sequences, num_prompts, num_prompts]
    )
    return PackLayout(
        prompt_bounds=bounds.prompts,
        output_bounds=bounds.outputs,
        group_bounds=bounds.groups,
        sequence_starts=sequence_starts,
        prompt_starts=prompt_starts,
        group_starts=group_starts,
        longest_prompt=_longest(bounds.prompts),
        longest_output=_longest(bounds.outputs),
        longest_group=_longest(bounds.group_tokens),
    )


def _windowed_keys(layout: PackLayout, window: int) -> WindowedKeys:
    """Gather for each output the tokens of its prompt that its first token sees, and itself."""
    prompts, outputs = np.array(layout.prompt_bounds), np.array(layout.output_bounds)
    counts = np.diff(layout.group_bounds)
    tails = np.repeat(np.minimum(np.diff(prompts), window - 1), counts)
    lengths = np.diff(outputs)
    # Each output is two runs of places: the end of its prompt, then the output.
    firsts = np.stack([np.repeat(prompts[1:], counts) - tails, outputs[:-1]], axis=1).ravel()
    sizes = np.stack([tails, lengths], axis=1).ravel()
    starts = np.concatenate([prompts, prompts[-1] + (tails + lengths).cumsum()])
    places = np.concatenate([np.arange(prompts[-1]), _runs(firsts, sizes)])
    device = layout.sequence_starts.device
    numbers = torch.from_numpy(np.concatenate([places, starts]))
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    on_device, bounds = numbers.to(device, non_blocking=True).split([len(places), len(starts)])
    return WindowedKeys(
        places=on_device, starts=bounds.to(torch.int32), longest=int(np.diff(starts).max())
    )


def _runs(firsts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return first, first + 1, ... for each run in turn: int64 [sum(lengths)]."""
    ends = lengths.cumsum()
    offsets = np.repeat(firsts - (ends - lengths), lengths)
    return np.asarray(offsets + np.arange(len(offsets)))


def _array(numbers: Iterable[int]) -> np.ndarray:
    return np.fromiter(numbers, dtype=np.int64)


def _bounds(lengths: np.ndarray, first: int = 0) -> Bounds:
    """Cumulative sums from `first`."""
    return tuple(accumulate(lengths.tolist(), initial=first))


def _longest(bounds: Bounds) -> int:
    return int(np.diff(bounds).max())
