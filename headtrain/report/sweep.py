"""The figures of a sweep: accuracy by layer, with intervals over problems."""

import itertools
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurize.io.figures import FAINT, drawing_row, to_png
from featurize.io.files import atomic_path
from headtrain.metrics.bootstrap import Interval
from headtrain.sweep.result import RESULT_FILE, WINNER_FOLDER, PointResult, SweepResult, read_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SERIES = 10
"""Lines that can be told apart; of more than that, the best are drawn."""
LETTERS_PER_INCH = 11
"""Of the title."""

logger = logging.getLogger(__name__)


def find_sweep(head: str, checkpoint_dir: Path) -> Path:
    """Return the result file of the sweep that the head won, else of the experiment's sweep."""
    own = Path(head).parent / RESULT_FILE
    return own if own.exists() else checkpoint_dir / "sweep" / RESULT_FILE


def to_head(place: str) -> str:
    """Return the head at a place: the winner if it is the folder of a sweep."""
    folder = Path(place)
    return str(folder / WINNER_FOLDER) if (folder / RESULT_FILE).exists() else place


def read_layers(path: Path) -> dict[str, Interval]:
    """Read the best accuracy over problems by the tensors a head reads, single tensors first.

    Empty without a sweep, or if all its points read the same tensors.
    """
    if not path.exists():
        return {}
    best: dict[tuple[str, ...], Interval] = {}
    try:
        points = read_result(SweepResult, path).points
    except ValueError as error:
        logger.warning("%s is not a sweep's result and is skipped (%s)", path, error)
        return {}
    for point in points:  # the best first
        if point.choose is not None:
            best.setdefault(point.tensors, point.choose.over_problems)
    if len(best) < 2:
        return {}
    return {" + ".join(tensors): best[tensors] for tensors in sorted(best, key=_sort_key)}


def _sort_key(tensors: tuple[str, ...]) -> tuple[int, list[tuple[str, int]]]:
    """Sort single tensors first, by pooling and layer: mean.2 before mean.12."""
    parts = [name.partition(".") for name in tensors]
    return len(tensors), [
        (pooling, int(layer) if layer.isdigit() else 0) for pooling, _, layer in parts
    ]


def draw_sweep(result: SweepResult, path: Path) -> Path:
    """Write the figure as PNG."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(make_sweep_figure(result)))
    return path


def make_sweep_figure(result: SweepResult) -> "Figure":
    """Draw single tensors by their layer on the left, combinations on the right."""
    trained = [point for point in result.points if point.choose is not None]
    single = [point for point in trained if len(point.tensors) == 1]
    several = [point for point in trained if len(point.tensors) != 1]
    names = list(dict.fromkeys(_tensors(point) for point in several))
    ratios = [max(4.0, len({_layer(point) for point in single}) * 0.9)] if single else []
    ratios += [max(2.0, 0.9 * len(names))] if several else []
    width = 2.2 + sum(ratios)
    with drawing_row(ratios, width=width, height=5.0) as (figure, row):
        if single:
            layers = sorted({_layer(point) for point in single})
            gap = min((high - low for low, high in itertools.pairwise(layers)), default=1)
            _draw(row[0], single, _layer, gap=gap)
            row[0].set_xticks(layers)
            row[0].set_xlabel("layer")
        if several:
            _draw(row[-1], several, lambda point: names.index(_tensors(point)), has_line=False)
            row[-1].set_xticks(range(len(names)), [name.replace("+", "\n+ ") for name in names])
            row[-1].set_xlim(-0.6, len(names) - 0.4)
        row[0].set_ylabel("pairwise accuracy over problems")
        for axes in row:
            axes.axhline(0.5, color=FAINT, linestyle=":")
            axes.legend(loc="best")
        figure.suptitle(textwrap.fill(_title(result), int(LETTERS_PER_INCH * width)), fontsize=10)
        return figure


def _title(result: SweepResult) -> str:
    best = result.points[0]
    assert best.choose is not None, "the winner has an accuracy"
    seeds = "one seed" if len(best.seeds) == 1 else f"mean of {len(best.seeds)} seeds"
    return (
        f"Accuracy on the {best.choose.num_problems} problems that select the winner; {seeds},"
        f" {result.confidence:.0%} intervals over problems"
    )


def _draw(
    axes: "Axes",
    points: Sequence[PointResult],
    place: Callable[[PointResult], int],
    *,
    gap: int = 1,
    has_line: bool = True,
) -> None:
    """Draw a series for each pooling and combination of other settings."""
    series = _series(points)
    for number, (name, members) in enumerate(series.items()):
        members = sorted(members, key=place)
        shift = 0.05 * gap * (number - (len(series) - 1) / 2)  # so that no interval hides another
        intervals = [point.choose.over_problems for point in members if point.choose]
        axes.errorbar(
            [place(point) + shift for point in members],
            [one.estimate for one in intervals],
            yerr=np.transpose([one.reach for one in intervals]),
            label=name,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.2 if has_line else 0,
            elinewidth=0.9,
        )


def _series(points: Sequence[PointResult]) -> dict[str, list[PointResult]]:
    """Group points by pooling and by all settings but the features; the best series first."""
    series: dict[str, list[PointResult]] = {}
    for point in points:  # the best first
        others = [f"{key}={value}" for key, value in point.varied.items() if key != "features"]
        others = [text.removeprefix("training.") for text in others]
        pooling = [point.tensors[0].partition(".")[0]] if len(point.tensors) == 1 else []
        series.setdefault(" ".join([*pooling, *others]) or "all", []).append(point)
    return dict(list(series.items())[:MAX_SERIES])


def _layer(point: PointResult) -> int:
    return int(point.tensors[0].partition(".")[2])


def _tensors(point: PointResult) -> str:
    return "+".join(point.tensors) or "likelihood"
