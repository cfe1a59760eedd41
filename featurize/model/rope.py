"""Rotary embeddings that depend on the longest sequence of a batch, and how to keep rows apart.

transformers computes one set of frequencies for all rows of a forward pass. With longrope (Phi-3)
they change above a threshold; with dynamic NTK they change with every length above it, and the
module remembers the longest call so far.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from featurize.model.packing import PromptGroup


@dataclass(frozen=True, kw_only=True)
class LengthRule:
    """Which lengths have the same frequencies; sequences of different classes run apart."""

    switches: tuple[int, ...] = ()
    """Lengths above which the frequencies are others (longrope)."""
    grows: tuple[int, ...] = ()
    """Lengths above which every length has its own (dynamic NTK)."""

    def class_of(self, length: int) -> tuple[int, ...]:
        """The class of a sequence of `length` tokens."""
        switched = (int(length > limit) for limit in self.switches)
        return (*switched, *(length if length > limit else 0 for limit in self.grows))


ANY_LENGTH = LengthRule()
"""Frequencies do not depend on the length."""


def length_rule(decoder: nn.Module) -> LengthRule:
    """Read from the rotary modules of a decoder which lengths may run together."""
    switches, grows = set(), set()
    for module in decoder.modules():
        for kind, parameters in _rope_kinds(module):
            if "dynamic" in kind:
                grows.add(int(_of(module, "original_max_seq_len")))
            elif kind == "longrope":
                switches.add(int(parameters["original_max_position_embeddings"]))
        if "Indexer" in type(module).__name__:
            grows.add(0)  # sparse attention that chooses among padding too (DeepSeek V3.2)
    return LengthRule(switches=tuple(sorted(switches)), grows=tuple(sorted(grows)))


def reset_frequencies(decoder: nn.Module) -> None:
    """Make dynamic NTK forget earlier calls: a value must not depend on what ran before it."""
    for module in decoder.modules():
        for place, (kind, _) in zip(_prefixes(module), _rope_kinds(module), strict=True):
            if "dynamic" in kind:
                current = getattr(module, f"{place}inv_freq")
                original = _of(module, f"{place}original_inv_freq").to(current.device)
                module.register_buffer(f"{place}inv_freq", original, persistent=False)
                setattr(module, f"{place}max_seq_len_cached", _of(module, "original_max_seq_len"))


def split_by_length(groups: Iterable[PromptGroup], rule: LengthRule) -> list[list[PromptGroup]]:
    """Split groups into parts whose sequences have one class; one part if all have the same."""
    parts: dict[tuple[int, ...], list[PromptGroup]] = {}
    for group in groups:
        places: dict[tuple[int, ...], list[int]] = {}
        for place, output in enumerate(group.outputs):
            kind = rule.class_of(len(group.prompt) + len(output))
            places.setdefault(kind, []).append(place)
        for kind, chosen in places.items():
            parts.setdefault(kind, []).append(_take(group, chosen))
    return [parts[kind] for kind in sorted(parts)]


def _take(group: PromptGroup, places: Sequence[int]) -> PromptGroup:
    if len(places) == len(group.outputs):
        return group
    return group.take(places)


def _rope_kinds(module: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """The kinds of a rotary module and their parameters: one, or one per type of layer."""
    kinds: Any = getattr(module, "rope_type", None)
    parameters: Any = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    if isinstance(kinds, str):
        return [(kinds, parameters)]
    if isinstance(kinds, dict):
        return [(kind, parameters.get(layer, {})) for layer, kind in kinds.items()]
    return []


def _prefixes(module: nn.Module) -> list[str]:
    """What the names of buffers begin with, in the order of `_rope_kinds`."""
    kinds: Any = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return [f"{layer}_" for layer in kinds]
    return [""] if isinstance(kinds, str) else []


def _of(module: nn.Module, name: str) -> Any:
    return getattr(module, name)
