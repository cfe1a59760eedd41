"""The input of one forward pass: token ids, positions, and where the outputs are.

A batch is built as NumPy arrays in host memory, by any thread, and uploaded in one copy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor, nn

from featurize.model.packing import PromptGroup

CPU = torch.device("cpu")
Bounds = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WindowedKeys:
    """The keys that outputs see under a sliding window: the end of their prompt, and themselves."""

    places: Tensor  # int64 [keys]: all prompts, then for each output its prompt's end and itself
    starts: Tensor  # int32 [groups + outputs + 1], bounds in `places`
    longest: int  # most keys of one sequence


@dataclass(frozen=True, kw_only=True)
class PackBounds:
    """Bounds of prompts and outputs in a pack: all prompts first, then the outputs by group."""

    prompt_bounds: Bounds  # [groups + 1] cumulative, from 0: prompt g is a slice of these
    output_bounds: Bounds  # [outputs + 1] cumulative, from prompt_bounds[-1]
    group_bounds: Bounds  # [groups + 1] output numbers: group g has outputs [a, b)
    group_tokens: Bounds  # [groups + 1] cumulative output tokens, from 0


@dataclass(frozen=True, kw_only=True)
class PackLayout(PackBounds):
    """The bounds of a pack, with those that kernels read on the device."""

    sequence_starts: Tensor  # int32 [groups + outputs + 1]: prompts, then outputs
    prompt_starts: Tensor  # int32 [groups + 1]
    group_starts: Tensor  # int32 [groups + 1], in output tokens, from 0
    # Modules that have attended by these bounds, and their windows: see decoder.check_attended.
    attended: dict[nn.Module, int | None] = field(default_factory=dict, compare=False, repr=False)
    _windows: dict[int, WindowedKeys] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, bounds: PackBounds, starts: Tensor) -> "PackLayout":
        """Make the layout of some bounds, uploaded one array after another: int64 [n]."""
        num_prompts = len(bounds.prompt_bounds)
        num_sequences = num_prompts + len(bounds.output_bounds) - 1
        sequences, prompts, groups = starts.to(torch.int32).split(
            [num_sequences, num_prompts, num_prompts]
        )
        return cls(
            **vars(bounds), sequence_starts=sequences, prompt_starts=prompts, group_starts=groups
        )

    @cached_property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return _longest(self.prompt_bounds)

    @cached_property
    def longest_output(self) -> int:
        """Tokens of the longest output."""
        return _longest(self.output_bounds)

    @cached_property
    def longest_group(self) -> int:
        """Most output tokens of one group."""
        return _longest(self.group_tokens)

    def windowed(self, window: int) -> WindowedKeys:
        """Return the keys under a window of that many tokens; made once a batch and window."""
        if window not in self._windows:
            self._windows[window] = _windowed_keys(self, window)
        return self._windows[window]


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The prefixes of outputs that get a row each: grouped by output, the shortest first."""

    counts: list[int]  # [outputs] prefixes of each output, in host memory
    pieces: Tensor  # int64 [prefixes] tokens of each beyond the prefix before it
    lengths: Tensor  # int64 [prefixes] tokens of each
    ends: Tensor  # int64 [prefixes] flat position of its last token, as `ends` of Batch
    outputs: Tensor  # int64 [prefixes] number of its output
    wholes: Tensor  # int64 [outputs] number of the prefix that is the whole output


@dataclass(kw_only=True, eq=False)
class Batch:
    """Input of one forward pass; outputs are given by positions in the flattened ids."""

    numbers: Tensor  # int64 [n]: all arrays one after another, pinned if a GPU will read them
    sizes: dict[str, int]  # length of each array by name, in their order
    shape: tuple[int, int]  # of the ids
    rows: Tensor  # int64 [outputs, or prefixes] feature row of each, in host memory
    prefix_counts: list[int]  # [outputs], or empty
    bounds: PackBounds | None  # None: rows are independent sequences, right-padded

    def __post_init__(self) -> None:
        parts = dict(zip(self.sizes, self.numbers.split(list(self.sizes.values())), strict=True))
        self.input_ids = parts["ids"].view(self.shape)  # int64 [batch, length]
        self.position_ids = parts["positions"].view(-1, self.shape[1]).expand(self.shape)
        # int64 [outputs] flat position of its first token
        self.starts = parts["starts"]
        # int64 [outputs], without what follows an output
        self.lengths = parts["lengths"]
        # int64 [outputs] flat position of its last token, or of the last of its end
        self.ends = parts["ends"]
        # int64 [outputs] flat position of the question's last token, which predicts the answer
        self.asked = parts["asked"]
        # int64 [outputs] flat position of the prompt's last token, which predicts the first one
        self.before = parts["before"]
        # int64 [output tokens] flat position of the token that predicts each
        self.predictors = parts["predictors"]
        # The output tokens, one output after another: flat positions.
        self.outputs: slice | Tensor = (
            parts["places"]
            if "places" in parts or self.bounds is None
            else slice(self.bounds.prompt_bounds[-1], None)
        )
        self.layout = None if self.bounds is None else PackLayout.of(self.bounds, parts["bounds"])
        self.prefixes: Prefixes | None = None  # a row per output
        if self.prefix_counts:
            found = {name: parts[f"prefix_{name}"] for name in PREFIX_ARRAYS}
            self.prefixes = Prefixes(counts=self.prefix_counts, **found)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute, padding and repeated prompts included."""
        return self.shape[0] * self.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """Upload in one copy, which is asynchronous if the host memory is pinned."""
        return replace(self, numbers=self.numbers.to(device, non_blocking=True))


def make_pack(
    groups: Sequence[PromptGroup], device: torch.device = CPU, *, pinned: bool = False
) -> Batch:
    """Make one sequence [1, tokens] in which all outputs of a prompt share it.

    Positions restart at each prompt and continue from its end in each of its outputs.
    `pinned` host memory is uploaded to a GPU without waiting.
    """
    outputs = [out for group in groups for out in group.outputs]
    prompt_lengths = _array(len(group.prompt) for group in groups)
    lengths = _array(map(len, outputs))
    counts = _array(len(group.outputs) for group in groups)
    prompts, group_bounds = _bounds(prompt_lengths), _bounds(counts)
    output_bounds = _bounds(lengths, first=prompts[-1])
    group_tokens = [output_bounds[number] - prompts[-1] for number in group_bounds]
    sequences = np.concatenate([prompt_lengths, lengths])
    firsts = np.concatenate([np.zeros_like(prompt_lengths), np.repeat(prompt_lengths, counts)])
    arrays = {
        "ids": _array(chain(*(group.prompt for group in groups), *outputs)),
        "positions": _runs(firsts, sequences),
        "bounds": _array((*prompts, *output_bounds[1:], *prompts, *group_tokens)),
        **_places(
            [group for group in groups for _ in group.outputs],
            starts=np.array(output_bounds[:-1]),
            lengths=lengths,
            before=np.repeat(np.array(prompts[1:]) - 1, counts),
            are_all=True,
        ),
    }
    bounds = PackBounds(
        prompt_bounds=prompts,
        output_bounds=output_bounds,
        group_bounds=group_bounds,
        group_tokens=tuple(group_tokens),
    )
    return _to_batch(arrays, (1, output_bounds[-1]), groups, bounds, pinned=pinned).to(device)


def make_padded(
    singles: Sequence[PromptGroup],
    device: torch.device = CPU,
    *,
    length: int | None = None,
    pinned: bool = False,
) -> Batch:
    """Make a batch of (prompt, output) sequences, padded on the right to the longest or `length`.

    NOTE: there is no attention mask. Under causal attention no token sees the padding on its right,
    and kernels are faster without a mask.
    """
    sequences = [single.prompt + single.outputs[0] for single in singles]
    width = length or max(map(len, sequences))
    ids = np.zeros((len(singles), width), dtype=np.int64)
    for number, sequence in enumerate(sequences):
        ids[number, : len(sequence)] = sequence
    starts = _array(number * width + len(one.prompt) for number, one in enumerate(singles))
    lengths = _array(len(single.outputs[0]) for single in singles)
    arrays = {
        "ids": ids.ravel(),
        "positions": np.arange(width),
        **_places(singles, starts=starts, lengths=lengths, before=starts - 1, are_all=False),
    }
    return _to_batch(arrays, ids.shape, singles, None, pinned=pinned).to(device)


def _to_batch(
    arrays: dict[str, np.ndarray],
    shape: tuple[int, int],
    groups: Sequence[PromptGroup],
    bounds: PackBounds | None,
    *,
    pinned: bool,
) -> Batch:
    arrays |= _prefix_arrays(groups, arrays["starts"], arrays["ends"])
    numbers = torch.from_numpy(np.concatenate(list(arrays.values())))
    return Batch(
        numbers=numbers.pin_memory() if pinned else numbers,
        sizes={name: len(array) for name, array in arrays.items()},
        shape=shape,
        rows=torch.tensor([row for group in groups for row in _rows(group)], dtype=torch.int64),
        prefix_counts=[len(lengths) for group in groups for lengths in group.prefixes],
        bounds=bounds,
    )


def _rows(group: PromptGroup) -> Sequence[int]:
    """The row of each output of a group, or of each prefix."""
    if not group.prefixes:
        return group.rows
    placed = zip(group.rows, group.prefixes, strict=True)
    return [first + place for first, lengths in placed for place in range(len(lengths))]


PREFIX_ARRAYS = ("pieces", "lengths", "ends", "outputs", "wholes")
"""Arrays of `Prefixes`."""


def _prefix_arrays(
    groups: Sequence[PromptGroup], starts: np.ndarray, ends: np.ndarray
) -> dict[str, np.ndarray]:
    """Arrays about the prefixes, none if no group wants any; `starts` and `ends` of the outputs."""
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
    prefix_ends = starts[outputs] + lengths - 1
    prefix_ends[wholes] = ends
    arrays = (pieces, lengths, prefix_ends, outputs, wholes)
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
