"""Reads `--grid key=value,value`: every combination becomes the overrides of one setting."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from featurize.errors import CriticError

SECTIONS = ("training", "data_sampling")
"""What a sweep may vary: all else is the same features and the same evaluation."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key and the values it takes, as they were written."""

    key: str
    values: tuple[str, ...]

    @property
    def setting(self) -> str:
        """The configuration's key."""
        return "training.features" if self.key == "features" else self.key

    def override(self, value: str) -> str:
        """`key=value` as `--set` takes it; of features `a+b` is the list of a and b."""
        if self.setting != "training.features":
            return f"{self.setting}={value}"
        listed = "null" if value == "all" else f"[{value.replace('+', ',')}]"
        return f"{self.setting}={listed}"


def parse_axis(text: str) -> Axis:
    """Read `training.dropout=0.1,0.3` or `features=mean.12,mean.12+last.24`.

    Commas inside brackets or braces belong to a value.
    """
    key, equals, listed = text.partition("=")
    values = _split(listed)
    if not equals or not key or not all(values):
        raise CriticError(f"--grid {text}: not of the form key=value,value")
    if key != "features" and key.partition(".")[0] not in SECTIONS:
        raise CriticError(
            f"--grid {text}: a sweep varies features and keys of {' and '.join(SECTIONS)}, "
            f"not {key!r}; give that with --set"
        )
    if len(set(values)) != len(values):
        raise CriticError(f"--grid {text}: names a value twice")
    return Axis(key=key, values=values)


def combine(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every combination, as the value of each key; one empty combination without axes."""
    settings = [axis.setting for axis in axes]
    for setting in settings:
        if settings.count(setting) > 1:
            raise CriticError(f"--grid {setting}: given twice; put its values into one")
    return [
        dict(zip([axis.key for axis in axes], values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def to_overrides(axes: Sequence[Axis], combination: dict[str, str]) -> list[str]:
    """The overrides that make a configuration this combination."""
    return [axis.override(combination[axis.key]) for axis in axes]


def _split(text: str) -> tuple[str, ...]:
    """Split at the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)
