"""The parts of an audit to show: tables in the terminal, and figures as files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = "label"
"""Key of a field's metadata: its name in a table."""

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


def shown(label: str) -> Any:
    """Declare a field that tables show under this name."""
    return field(metadata={LABEL: label})


def _labels(found: Any) -> dict[str, str]:
    return {one.name: one.metadata[LABEL] for one in fields(found) if LABEL in one.metadata}


def _cells(found: Any) -> list[Any]:
    """Get the shown values; of several numbers all, of several names the first three."""
    values = (getattr(found, name) for name in _labels(found))
    return [_join(value) if isinstance(value, tuple) else value for value in values]


def _join(values: tuple[Any, ...]) -> str:
    is_text = all(isinstance(value, str) for value in values)
    return ", ".join(values[:3]) if is_text else " ".join(f"{value:,}" for value in values)


def rows_of(found: Any) -> dict[str, Any]:
    """List the shown fields of a dataclass, with their names."""
    return dict(zip(_labels(found).values(), _cells(found), strict=True))


def columns_of(title: str, items: Sequence[Any], *headings: str) -> Columns:
    """Make a table of dataclasses of one kind, at least one; `headings` replace the first names."""
    names = [*_labels(items[0]).values()]
    names[: len(headings)] = headings
    return Columns(title=title, columns=names, rows=[_cells(item) for item in items])


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
