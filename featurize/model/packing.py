"""How the forward passes are laid out: duplicates, groups by prompt, packs under a token budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """One prompt with distinct outputs, and the feature row each of them fills."""

    prompt: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens to compute: the prompt once, every output."""
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


def group_samples(samples: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> Grouping:
    """Groups (prompt ids, output ids); rows are numbered in the order they first come."""
    rows: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    row_of_sample, num_rows = [], 0
    for prompt, output in samples:
        outputs = rows.setdefault(prompt, {})
        if output not in outputs:
            outputs[output] = num_rows
            num_rows += 1
        row_of_sample.append(outputs[output])
    groups = [
        PromptGroup(prompt=prompt, outputs=tuple(outputs), rows=tuple(outputs.values()))
        for prompt, outputs in rows.items()
    ]
    return Grouping(groups=groups, row_of_sample=np.array(row_of_sample, dtype=np.int64))


def plan_packs(groups: Sequence[PromptGroup], token_budget: int) -> list[list[PromptGroup]]:
    """Packs of whole groups under the budget: first fit, largest first.

    A group above the budget is split into as few pieces as possible, its prompt repeated in each.
    A single (prompt, output) above the budget makes a pack of its own.
    """
    pieces = [piece for group in groups for piece in _split_group(group, token_budget)]
    pieces.sort(key=lambda piece: -piece.num_tokens)
    packs: list[list[PromptGroup]] = []
    room: list[int] = []
    for piece in pieces:
        place = next((i for i, left in enumerate(room) if left >= piece.num_tokens), None)
        if place is None:
            packs.append([])
            room.append(token_budget)
            place = len(packs) - 1
        packs[place].append(piece)
        room[place] -= piece.num_tokens
    return packs


def plan_padded(groups: Sequence[PromptGroup], token_budget: int) -> list[list[PromptGroup]]:
    """Batches of single sequences of like length: rows x longest stays under the budget.

    Each entry is a group with one output: the prompt is computed again for every output.
    """
    singles = [
        PromptGroup(prompt=group.prompt, outputs=(output,), rows=(row,))
        for group in groups
        for output, row in zip(group.outputs, group.rows, strict=True)
    ]
    singles.sort(key=lambda single: -single.num_tokens)
    batches: list[list[PromptGroup]] = []
    for single in singles:
        # The first of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * batches[-1][0].num_tokens <= token_budget:
            batches[-1].append(single)
        else:
            batches.append([single])
    return batches


def plan_units(group_sizes: Sequence[int], unit_size: int) -> list[tuple[int, int]]:
    """Cuts consecutive groups into units of about `unit_size`: [start, stop) group numbers.

    Depends on the sizes alone, so that neither world size nor machine changes the units.
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
    """The group itself, or pieces of it that fit the budget."""
    if group.num_tokens <= token_budget:
        return [group]
    room = token_budget - len(group.prompt)
    # Longest first, each into the first piece with room: as few repeats of the prompt as can be.
    order = sorted(range(len(group.outputs)), key=lambda i: -len(group.outputs[i]))
    pieces: list[list[int]] = []
    left: list[int] = []
    for number in order:
        length = len(group.outputs[number])
        place = next((i for i, space in enumerate(left) if space >= length), None)
        if place is None:
            pieces.append([])
            left.append(room)
            place = len(pieces) - 1
        pieces[place].append(number)
        left[place] -= length
    return [
        PromptGroup(
            prompt=group.prompt,
            outputs=tuple(group.outputs[number] for number in sorted(piece)),
            rows=tuple(group.rows[number] for number in sorted(piece)),
        )
        for piece in pieces
    ]
