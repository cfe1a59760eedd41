"""The figure of a learning curve: accuracy against problems, and against candidates a problem."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurize.io.figures import FAINT, HEAD, OTHER, drawing_row, to_png
from featurize.io.files import atomic_path
from headtrain.metrics.bootstrap import Interval
from headtrain.sweep.curve import Curve, CurveResult

CLOSEST_LABELS = 1.3
"""Ratio of two sizes on the axis that both have a label."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curve(result: CurveResult, path: Path) -> Path:
    """Write the figure as PNG."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(make_curve_figure(result)))
    return path


def make_curve_figure(result: CurveResult) -> "Figure":
    """Draw both curves; the extrapolation to twice the largest size has a colour of its own."""
    with drawing_row([1.0] * len(result.curves), width=8.0, height=3.6) as (figure, row):
        for axes, curve in zip(row, result.curves, strict=True):
            _draw(axes, curve)
        row[0].set_ylabel("pairwise accuracy over problems")
        return figure


def curve_rows(result: CurveResult) -> dict[str, str]:
    """Return the rows of the table: every size, twice the largest, another layer and backbone."""
    rows = {}
    for curve in result.curves:
        for level in curve.levels:
            rows[f"{_shown(level.size)} {curve.axis}"] = str(level.accuracy)
        rows[f"twice the {curve.axis}"] = str(curve.doubled or curve.note)
    if result.layer is not None:
        rows[f"gain with {result.layer.tensor} too"] = str(result.layer.gain)
    if (other := result.larger_backbone) is None:
        rows["gain with a larger backbone"] = "not measured"
    else:
        reads = f" ({', '.join(other.tensors)})" if other.tensors else ""
        rows[f"gain with {other.name}{reads}"] = str(other.gain)
    return rows


def _draw(axes: "Axes", curve: Curve) -> None:
    sizes = [level.size for level in curve.levels]
    _whisker(axes, sizes, [level.accuracy for level in curve.levels], HEAD, "measured")
    if curve.doubled is not None:
        _whisker(axes, [2 * sizes[-1]], [curve.doubled], OTHER, "extrapolated")
        sizes = [*sizes, 2 * sizes[-1]]
    shown = _apart(sizes)
    axes.axhline(0.5, color=FAINT, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [_shown(size) if size in shown else "" for size in sizes])
    axes.set_xlabel(curve.axis)
    axes.legend(loc="best")


def _shown(size: float) -> str:
    """Whole numbers as such, means with a decimal."""
    return f"{size:,.0f}" if size == round(size) else f"{size:,.1f}"


def _apart(sizes: Sequence[float]) -> list[float]:
    """The sizes whose labels have room on the axis, from the largest on."""
    kept: list[float] = []
    for size in sorted(sizes, reverse=True):
        if not kept or kept[-1] / size > CLOSEST_LABELS:
            kept.append(size)
    return kept


def _whisker(
    axes: "Axes", sizes: list[float], found: list[Interval], colour: str, label: str
) -> None:
    estimates = [one.estimate for one in found]
    axes.errorbar(
        sizes,
        estimates,
        yerr=np.transpose([one.reach for one in found]),
        color=colour,
        label=label,
        marker="o",
        capsize=2,
    )
