"""The figure of a learning curve: accuracy against problems, and against candidates a problem."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurize.io.figures import FAINT, HEAD, OTHER, drawing_row, to_png
from featurize.io.files import atomic_path
from headtrain.metrics.bootstrap import Interval
from headtrain.sweep.curve import Curve, CurveResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curve(result: CurveResult, path: Path) -> Path:
    """Write the figure; the extrapolation to twice the largest size has a colour of its own."""
    with drawing_row([1.0] * len(result.curves), width=8.0, height=3.6) as (figure, row):
        for axes, curve in zip(row, result.curves, strict=True):
            _draw(axes, curve)
        row[0].set_ylabel("pairwise accuracy over problems")
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure))
    return path


def curve_rows(result: CurveResult) -> dict[str, str]:
    """Return the rows of the table: every size, twice the largest, and the further layer."""
    rows = {}
    for curve in result.curves:
        for level in curve.levels:
            rows[f"{level.size:g} {curve.axis}"] = str(level.accuracy)
        rows[f"twice the {curve.axis}"] = str(curve.doubled or curve.note)
    if result.layer is not None:
        rows[f"gain with {result.layer.tensor} too"] = str(result.layer.gain)
    return rows


def _draw(axes: "Axes", curve: Curve) -> None:
    sizes = [level.size for level in curve.levels]
    _whisker(axes, sizes, [level.accuracy for level in curve.levels], HEAD, "measured")
    if curve.doubled is not None:
        _whisker(axes, [2 * sizes[-1]], [curve.doubled], OTHER, "extrapolated")
        sizes = [*sizes, 2 * sizes[-1]]
    axes.axhline(0.5, color=FAINT, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    axes.set_xlabel(curve.axis)
    axes.legend(loc="best")


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
