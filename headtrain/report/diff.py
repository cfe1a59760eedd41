"""The differences of two programs, line by line, and within a line that changed a little."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

MOST_LINES = 2000
"""Of longer programs nothing is marked: comparing takes time that grows with the square."""

MOST_LETTERS = 500
"""Longer pieces are marked whole, for the same reason."""

LEAST_ALIKE = 0.5
"""Lines less alike than this are marked whole."""


class Part(NamedTuple):
    """A piece of text."""

    text: str
    is_marked: bool


@dataclass(frozen=True)
class Diff:
    """Two texts as parts, those that differ are marked."""

    first: tuple[Part, ...]
    second: tuple[Part, ...]


def diff(first: str, second: str) -> Diff:
    """Mark what differs between two programs; joined again, the parts are the programs."""
    lines = first.splitlines(keepends=True), second.splitlines(keepends=True)
    if max(map(len, lines)) > MOST_LINES:
        return Diff((Part(first, False),), (Part(second, False),))
    parts: tuple[list[Part], list[Part]] = ([], [])
    for tag, *bounds in SequenceMatcher(None, *lines).get_opcodes():
        blocks = lines[0][bounds[0] : bounds[1]], lines[1][bounds[2] : bounds[3]]
        for found, side in zip(parts, _block(tag, *blocks), strict=True):
            found += side
    return Diff(_joined(parts[0]), _joined(parts[1]))


def _block(tag: str, first: Sequence[str], second: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """The parts of a block of lines that is equal, replaced, deleted or inserted."""
    if tag != "replace":
        is_marked = tag != "equal"
        return _whole(first, is_marked), _whole(second, is_marked)
    if len(first) != len(second):
        return _within("".join(first), "".join(second))
    sides: tuple[list[Part], list[Part]] = ([], [])
    for one, other in zip(first, second, strict=True):
        for side, parts in zip(sides, _within(one, other), strict=True):
            side += parts
    return sides


def _within(first: str, second: str) -> tuple[list[Part], list[Part]]:
    """Mark the letters that differ, or all of them if little is alike."""
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    is_long = max(len(first), len(second)) > MOST_LETTERS
    if is_long or matcher.quick_ratio() < LEAST_ALIKE:
        return _whole([first], True), _whole([second], True)
    codes = matcher.get_opcodes()
    return (
        _pieces(first, [(tag, a, b) for tag, a, b, _, _ in codes]),
        _pieces(second, [(tag, a, b) for tag, _, _, a, b in codes]),
    )


def _pieces(text: str, codes: Sequence[tuple[str, int, int]]) -> list[Part]:
    """Cut one side into its parts; an inserted line is marked with its own indentation."""
    parts, done = [], 0
    for tag, start, end in codes:
        if tag == "equal":
            continue
        before, marked = text[done:start], text[start:end]
        shift = 0 if tag == "replace" else _shared_indentation(before, marked)
        parts += [Part(text[done : start - shift], False)]
        parts += [Part(text[start - shift : end - shift], True)]
        done = end - shift
    return [part for part in [*parts, Part(text[done:], False)] if part.text]


def _shared_indentation(before: str, marked: str) -> int:
    """The length of the indentation before `marked`, if `marked` ends with the same one."""
    indentation = before.rpartition("\n")[2]
    is_shared = indentation.isspace() and marked.endswith("\n" + indentation)
    return len(indentation) if is_shared else 0


def _whole(lines: Sequence[str], is_marked: bool) -> list[Part]:
    return [Part("".join(lines), is_marked)] if lines else []


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Join neighbours that are both marked or both not."""
    return tuple(
        Part("".join(part.text for part in group), is_marked)
        for is_marked, group in groupby(parts, key=attrgetter("is_marked"))
    )
