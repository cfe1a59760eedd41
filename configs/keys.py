"""The keys a configuration may have, and suggestions for misspelt ones."""

import dataclasses
import difflib
import functools
import typing

from configs.config import Config

KeyPath: typing.TypeAlias = tuple[str, ...]


@functools.cache
def known_keys() -> tuple[KeyPath, ...]:
    """Every key of the tree, including sections, in the order of the settings classes."""
    return tuple(_keys_of(Config, ()))


def describe_unknown(key: KeyPath) -> str:
    """The message for an unknown key: the nearest key, or the keys of its section."""
    nearest = _nearest_keys(key)
    if nearest:
        return f"unknown key; did you mean {' or '.join(nearest)}?"
    _, siblings = _siblings_of(key)
    return f"unknown key; the keys there are {', '.join(siblings)}" if siblings else "unknown key"


def _nearest_keys(key: KeyPath) -> list[str]:
    section, siblings = _siblings_of(key)
    depth = len(section)
    wanted = ".".join(key)
    # The right name in the wrong place: training.seed is runtime.seed or data_sampling.seed.
    elsewhere = [".".join(known) for known in known_keys() if known[-1] == key[-1]]
    beside = difflib.get_close_matches(key[depth], siblings, n=1)
    if beside and (depth < len(key) - 1 or not elsewhere):
        corrected = (*section, beside[0], *key[depth + 1 :])
        return [".".join(corrected if corrected in known_keys() else corrected[: depth + 1])]
    if elsewhere:
        return difflib.get_close_matches(wanted, elsewhere, n=2, cutoff=0.0)
    sections = {known[:-1] for known in known_keys()}
    names = set(difflib.get_close_matches(key[-1], {known[-1] for known in known_keys()}))
    everywhere = [
        ".".join(known) for known in known_keys() if known not in sections and known[-1] in names
    ]
    return difflib.get_close_matches(wanted, everywhere, n=1, cutoff=0.7)


def _siblings_of(key: KeyPath) -> tuple[KeyPath, list[str]]:
    """The deepest existing section on the path to `key`, and the names in it."""
    depth = len(key) - 1
    while depth and key[:depth] not in known_keys():
        depth -= 1
    section = key[:depth]
    return section, [known[-1] for known in known_keys() if known[:-1] == section]


def _keys_of(section: type[typing.Any], prefix: KeyPath) -> typing.Iterator[KeyPath]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        key = (*prefix, field.name)
        yield key
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from _keys_of(part, key)
