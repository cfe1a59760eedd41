"""Plans forward passes: merges duplicates, groups by prompt, packs under a token budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """A prompt, its distinct outputs, and the feature row of each output."""

    prompt: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    num_end: int = 0  # last ids of every output that end it; a question comes after them
    num_question: int = 0  # last ids of every output that ask about it
    prefixes: tuple[tuple[int, ...], ...] = ()
    """Of each output, the lengths of the prefixes that get a row: ascending, the last is the whole
    output. `rows` then has the row of the first; the others follow it. Empty: a row per output."""

    def take(self, places: Sequence[int]) -> "PromptGroup":
        """Return the group of some of the outputs."""
        return replace(
            self,
            outputs=tuple(self.outputs[place] for place in places),
            rows=tuple(self.rows[place] for place in places),
            prefixes=tuple(self.prefixes[place] for place in places) if self.prefixes else (),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens to compute: the prompt once, and every output."""
        return len(self.prompt) + sum(map(len, self.outputs))


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Samples grouped by identical prompt ids, identical outputs merged."""

    groups: list[PromptGroup]
    row_of_sample: np.ndarray  # int64 [samples]: the feature row of each

    @property
    def num_rows(self) -> int:
        """Distinct (prompt, output) id sequences."""
        return sum(len(group.rows) for group in self.groups)


def group_samples(
    samples: Iterable[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    end: tuple[int, ...] = (),
    question: tuple[int, ...] = (),
) -> Grouping:
    """Group pairs of (prompt ids, output ids); rows are numbered by first appearance.

    `end` and `question` are the ids that follow every output.
    """
    suffix = end + question
    rows: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    row_of_sample, num_rows = [], 0
    for prompt, output in samples:
        outputs = rows.setdefault(prompt, {})
        if output not in outputs:
            outputs[output] = num_rows
            num_rows += 1
        row_of_sample.append(outputs[output])
    groups = [
        PromptGroup(
            prompt=prompt,
            outputs=tuple(output + suffix for output in outputs),
            rows=tuple(outputs.values()),
            num_end=len(end),
            num_question=len(question),
        )
        for prompt, outputs in rows.items()
    ]
    return Grouping(groups=groups, row_of_sample=np.array(row_of_sample, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class PrefixGrouping:
    """Samples grouped by identical prompt ids, with a row for each prefix that is wanted."""

    groups: list[PromptGroup]
    rows: list[np.ndarray]  # int64 [prefixes] of each sample: the feature rows of its prefixes
    num_rows: int


def group_prefixes(grouping: Grouping, prefixes: Sequence[Sequence[int]]) -> PrefixGrouping:
    """Give every wanted prefix of the outputs a row of its own.

    Args:
        grouping: the samples.
        prefixes: of each sample, the lengths of its prefixes in tokens, without what follows an
            output: ascending, at least 1, the last is the whole output. Samples of one output may
            want different ones.
    """
    wanted: list[set[int]] = [set() for _ in range(grouping.num_rows)]
    for row, lengths in zip(grouping.row_of_sample.tolist(), prefixes, strict=True):
        wanted[row].update(lengths)
    lengths_of = [tuple(sorted(lengths)) for lengths in wanted]
    firsts = np.cumsum([0, *map(len, lengths_of)])
    groups = [
        replace(
            group,
            rows=tuple(int(firsts[row]) for row in group.rows),
            prefixes=tuple(lengths_of[row] for row in group.rows),
        )
        for group in grouping.groups
    ]
    rows = [
        firsts[row] + np.searchsorted(lengths_of[row], lengths)
        for row, lengths in zip(grouping.row_of_sample.tolist(), prefixes, strict=True)
    ]
    return PrefixGrouping(groups=groups, rows=rows, num_rows=int(firsts[-1]))


def plan_packs(groups: Sequence[PromptGroup], token_budget: int) -> list[list[PromptGroup]]:
    """Pack whole groups under the budget: first fit, largest first.

    A group above the budget is split into as few pieces as possible, its prompt repeated in each.
    A single (prompt, output) above the budget gets a pack of its own.
    """
    pieces = [piece for group in groups for piece in _split_group(group, token_budget)]
    packs = _first_fit([piece.num_tokens for piece in pieces], token_budget)
    return [[pieces[number] for number in pack] for pack in packs]


def plan_padded(groups: Sequence[PromptGroup], token_budget: int) -> list[list[PromptGroup]]:
    """Batch single sequences of similar length so that rows x longest stays under the budget.

    Each entry is a group with one output: the prompt is computed again for every output.
    """
    singles = [group.take([place]) for group in groups for place in range(len(group.outputs))]
    singles.sort(key=lambda single: -single.num_tokens)
    batches: list[list[PromptGroup]] = []
    for single in singles:
        # The first sequence of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * batches[-1][0].num_tokens <= token_budget:
            batches[-1].append(single)
        else:
            batches.append([single])
    return batches


def plan_units(group_sizes: Sequence[int], unit_size: int) -> list[tuple[int, int]]:
    """Cut consecutive groups into units of about `unit_size`: [start, stop) group numbers.

    The units depend on the sizes alone, not on the number of processes or the machine.
    """
    units, start, total = [], 0, 0
    for number, size in enumerate(group_sizes):
        total += size
        if total >= unit_size:
            units.append((start, number + 1))
            start, total = number + 1, 0
    if start < len(group_sizes):
        units.append((start, len(group_sizes)))
    return units


def _split_group(group: PromptGroup, token_budget: int) -> list[PromptGroup]:
    """Split a group above the budget into pieces that fit it, each with the whole prompt."""
    if group.num_tokens <= token_budget:
        return [group]
    pieces = _first_fit(list(map(len, group.outputs)), token_budget - len(group.prompt))
    return [group.take(sorted(piece)) for piece in pieces]


def _first_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items, largest first, into the first bin with room; return the items of each bin.

    An item above the capacity gets a bin of its own.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        chosen = next((i for i, left in enumerate(room) if left >= sizes[item]), None)
        if chosen is None:
            chosen = len(bins)
            bins.append([])
            room.append(capacity)
        bins[chosen].append(item)
        room[chosen] -= sizes[item]
    return bins
