"""Draws a sweep: accuracy by layer, and by combination of tensors, with intervals over problems."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headtrain.sweep.result import PointResult, SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_SERIES = 10
"""Lines that can be told apart; beyond them the best are drawn."""


_LETTERS = 11
"""Of the title in an inch."""


def draw_sweep(result: SweepResult, path: Path) -> Path:
    """Write the figure: single tensors over their layer on the left, combinations on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = [point for point in result.points if point.choose is not None]
    single = [point for point in judged if len(point.tensors) == 1]
    several = [point for point in judged if len(point.tensors) != 1]
    names = list(dict.fromkeys(_tensors(point) for point in several))
    ratios = [max(4.0, len({_layer(point) for point in single}) * 0.9)] if single else []
    ratios += [max(2.0, 0.9 * len(names))] if several else []
    width = 2.2 + sum(ratios)
    figure = Figure(figsize=(width, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(ratios), width_ratios=ratios, sharey=True, squeeze=False)[0]
    if single:
        layers = sorted({_layer(point) for point in single})
        gap = min((high - low for low, high in itertools.pairwise(layers)), default=1)
        _draw(axes[0], _series(single), _layer, gap=gap)
        axes[0].set_xticks(layers)
        axes[0].set_xlabel("layer")
    if several:
        _draw(axes[-1], _series(several), lambda point: names.index(_tensors(point)), is_line=False)
        axes[-1].set_xticks(range(len(names)), [name.replace("+", "\n+ ") for name in names])
        axes[-1].set_xlim(-0.6, len(names) - 0.4)
    axes[0].set_ylabel("pairwise accuracy over problems")
    for one in axes:
        one.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        one.grid(axis="y", alpha=0.3)
        one.legend(fontsize=8, loc="best")
    num_problems = judged[0].choose.num_problems if judged[0].choose else 0
    num_seeds = len(judged[0].seeds)
    seeds = "one seed" if num_seeds == 1 else f"mean of {num_seeds} seeds"
    title = (
        f"On the {num_problems} problems that choose; {seeds},"
        f" {result.confidence:.0%} intervals over problems"
    )
    figure.suptitle(textwrap.fill(title, int(_LETTERS * width)), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _draw(
    axes: "Axes",
    series: dict[str, list[PointResult]],
    place: Callable[[PointResult], int],
    *,
    gap: int = 1,
    is_line: bool = True,
) -> None:
    for number, (name, points) in enumerate(series.items()):
        points = sorted(points, key=place)
        shift = 0.05 * gap * (number - (len(series) - 1) / 2)  # or intervals would hide each other
        intervals = [point.choose.over_problems for point in points if point.choose]
        heights = [one.estimate for one in intervals]
        # NOTE: a percentile interval need not hold its estimate; a bar of less than nothing cannot.
        below = [max(0.0, one.estimate - (one.low or one.estimate)) for one in intervals]
        above = [max(0.0, (one.high or one.estimate) - one.estimate) for one in intervals]
        axes.errorbar(
            [place(point) + shift for point in points],
            heights,
            yerr=[below, above],
            label=name,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.2 if is_line else 0,
            elinewidth=0.9,
        )


def _series(points: Sequence[PointResult]) -> dict[str, list[PointResult]]:
    """Points of one pooling and of equal other settings; the best series first."""
    series: dict[str, list[PointResult]] = {}
    for point in points:  # from the best down
        others = [f"{key}={value}" for key, value in point.varied.items() if key != "features"]
        others = [text.removeprefix("training.") for text in others]
        pooling = [point.tensors[0].partition(".")[0]] if len(point.tensors) == 1 else []
        series.setdefault(" ".join([*pooling, *others]) or "all", []).append(point)
    return dict(list(series.items())[:MOST_SERIES])


def _layer(point: PointResult) -> int:
    return int(point.tensors[0].partition(".")[2])


def _tensors(point: PointResult) -> str:
    return "+".join(point.tensors) or "likelihood"
