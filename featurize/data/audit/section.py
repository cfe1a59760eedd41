"""The parts of an audit to show: tables in the terminal, and figures as files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LISTED = 10
"""Examples in a table; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table of names and values."""

    title: str
    rows: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table with column headings."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One subject of an audit."""

    tables: Sequence[Rows | Columns]
    figures: Mapping[str, Callable[["Axes"], None]] = field(default_factory=dict)
    """Name of the file without .png -> function that draws it."""


def by_power_of_two(values: npt.NDArray[np.integer]) -> dict[int, int]:
    """Count the values below each power of two and not below the power before it."""
    powers = np.ceil(np.log2(values + 1.0)).astype(int)  # value < 2 ** power
    found = np.bincount(powers)
    return {1 << power: int(found[power]) for power in range(len(found))}


def draw_by_power_of_two(
    axes: "Axes", histogram: Mapping[int, int], label: str, **style: Any
) -> None:
    """Draw such counts in percent, on a logarithmic axis."""
    filled = [edge for edge, number in histogram.items() if number]
    if not filled:
        return
    edges = [edge for edge in histogram if edge >= min(filled)]
    shares = 100 * np.array([histogram[edge] for edge in edges]) / sum(histogram.values())
    axes.stairs(shares, [edges[0] / 2, *edges], label=label, **style)
    scale_log(axes, base=2)


def scale_log(axes: "Axes", base: int = 10) -> None:
    """Make the x axis logarithmic, with plain numbers."""
    from matplotlib.ticker import StrMethodFormatter

    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
