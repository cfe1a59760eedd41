"""The grid of a sweep: `--grid key=value,value` becomes one point for every combination."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurize.errors import CriticError
from headtrain.settings import DataSamplingSettings, TrainingSettings

SECTIONS = {"training": TrainingSettings, "data_sampling": DataSamplingSettings}
"""Configuration sections a sweep may vary; all points share the features and the evaluation."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One combination of settings."""

    varied: Mapping[str, str]
    """The values this point takes on the axes of the grid, by key."""
    training: TrainingSettings
    sampling: DataSamplingSettings
    run_config: Mapping[str, Any]
    """The whole configuration of this point."""

    @property
    def name(self) -> str:
        """`features=mean.12 training.dropout=0.1`."""
        return point_name(self.varied)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key and the values it takes, as the user wrote them."""

    key: str
    values: tuple[str, ...]

    @property
    def setting(self) -> str:
        """The key in the configuration."""
        return "training.features" if self.key == "features" else self.key

    def override(self, value: str) -> str:
        """Return `key=value` in the form of `--set`; the features `a+b` become the list [a,b]."""
        if self.setting != "training.features":
            return f"{self.setting}={value}"
        listed = "null" if value == "all" else f"[{value.replace('+', ',')}]"
        return f"{self.setting}={listed}"


def point_name(varied: Mapping[str, str]) -> str:
    """Name a point by the values that vary."""
    return " ".join(f"{key}={value}" for key, value in varied.items()) or "as configured"


def parse_axis(text: str) -> Axis:
    """Read `training.dropout=0.1,0.3` or `features=mean.12,mean.12+last.24`.

    A comma inside brackets or braces is part of a value.
    """
    key, equals, listed = text.partition("=")
    values = _split(listed)
    if not equals or not key or not all(values):
        raise CriticError(f"--grid {text}: not of the form key=value,value")
    if key != "features" and key.partition(".")[0] not in SECTIONS:
        meant = [f"{name}.{key}" for name, fields in SECTIONS.items() if hasattr(fields, key)]
        remedy = f"did you mean {meant[0]}?" if meant else "give that with --set"
        raise CriticError(
            f"--grid {text}: a sweep varies features and keys of {' and '.join(SECTIONS)}, "
            f"not {key!r}; {remedy}"
        )
    if len(set(values)) != len(values):
        raise CriticError(f"--grid {text}: names a value twice")
    return Axis(key=key, values=values)


def combine(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Return every combination, a value by key; one empty combination if there are no axes."""
    settings = [axis.setting for axis in axes]
    for setting in settings:
        if settings.count(setting) > 1:
            raise CriticError(f"--grid {setting}: given twice; put its values into one")
    return [
        dict(zip([axis.key for axis in axes], values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def to_overrides(axes: Sequence[Axis], combination: Mapping[str, str]) -> list[str]:
    """Return the `--set` overrides that configure a combination."""
    return [axis.override(combination[axis.key]) for axis in axes]


def _split(text: str) -> tuple[str, ...]:
    """Split at the commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)
