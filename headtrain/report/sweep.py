"""A sweep and its learning curve: tables for the terminal, figures, and their page."""

import itertools
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from rich.table import Table

from featurize.io.figures import FAINT, HEAD, OTHER, drawing_row, to_png, to_svg
from featurize.io.files import atomic_path
from headtrain.metrics.bootstrap import Interval
from headtrain.report.template import render
from headtrain.sweep.curve import Curve, CurveResult
from headtrain.sweep.result import (
    CURVE_FILE,
    PAGE_FILE,
    RESULT_FILE,
    WINNER_FOLDER,
    Accuracy,
    PointResult,
    SweepResult,
    read_result,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 30
"""Points of a sweep in its table; sweep.json has all."""
MAX_SERIES = 10
"""Lines that can be told apart; of more than that, the best are drawn."""
LETTERS_PER_INCH = 11
"""Of the title."""
CLOSEST_LABELS = 1.3
"""Ratio of two sizes on the axis that both have a label."""

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


def points_table(result: SweepResult) -> Table:
    """The best points of a sweep on the half that selects the winner."""
    choose = result.points[0].choose
    assert choose is not None, "the winner has an accuracy"
    keys = list(dict.fromkeys(key for point in result.points for key in point.varied))
    has_holdout = any(point.holdout for point in result.points)
    level = f"{result.confidence:.0%}"
    table = Table(
        title=f"{result.num_heads} heads at {len(result.points)} points, accuracy on the"
        f" {choose.num_problems} problems that select the winner (the best of many: biased up)",
        title_justify="left",
        title_style="bold",
    )
    # NOTE: a value that is cut short could not be told from others, so it wraps.
    for key in keys or ["point"]:
        table.add_column(key.rpartition(".")[2], overflow="fold")
    # NOTE: broken here, because rich would break the cells below a wide heading.
    names = ["each seed,\nover problems", f"all seeds,\nover problems ({level})", "over\npairs"]
    for name in [*names, *(["held-out\ntrain"] if has_holdout else [])]:
        table.add_column(name, justify="right")
    for place, point in enumerate(result.points[:MAX_POINTS]):
        cells = [point.varied.get(key, "-") for key in keys] or [point.name]
        cells += [_seeds_cell(point), _over_problems(point.choose)]
        cells.append(f"{point.choose.over_pairs:.3f}" if point.choose else "-")
        if has_holdout:
            # NOTE: without its interval, so that the table fits 80 columns; sweep.json has it.
            holdout = point.holdout
            cells.append(f"{holdout.over_problems.estimate:.3f}" if holdout else "-")
        table.add_row(*cells, style=None if place else "bold")
    return table


def winner_rows(result: SweepResult) -> dict[str, Any]:
    """The winner's accuracy on both halves, by name."""
    winner, report = result.points[0], result.report
    assert winner.choose is not None, "the winner has an accuracy"
    chosen = winner.choose
    return {
        "winner": winner.name,
        "seeds averaged": sum(accuracy is not None for accuracy in winner.of_seeds),
        f"accuracy on the {chosen.num_problems} problems that chose it": (
            chosen.over_problems.estimate
        ),
        f"accuracy on the {report.num_problems} problems that did not": str(report.over_problems),
        "the same over pairs": report.over_pairs,
        "seconds of training": result.seconds_training,
        "seconds in total": result.seconds,
    }


def _seeds_cell(point: PointResult) -> str:
    """`0.690-0.712`: lowest and highest accuracy of the seeds."""
    whole = [accuracy for accuracy in point.of_seeds if accuracy is not None]
    num_diverged = len(point.of_seeds) - len(whole)
    note = f", {num_diverged} diverged" if num_diverged else ""
    if not whole:
        return f"-{note}"
    if len(whole) == 1:
        return f"{whole[0]:.3f}{note}"
    return f"{min(whole):.3f}-{max(whole):.3f}{note}"


def _over_problems(accuracy: Accuracy | None) -> str:
    return str(accuracy.over_problems) if accuracy else "-"


def draw_curve(result: CurveResult, path: Path) -> Path:
    """Write the figure as PNG."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(make_curve_figure(result)))
    return path


def make_curve_figure(result: CurveResult) -> "Figure":
    """Draw both curves; the extrapolation to twice the largest size has a colour of its own."""
    with drawing_row([1.0] * len(result.curves), width=8.0, height=3.6) as (figure, row):
        for axes, curve in zip(row, result.curves, strict=True):
            _draw_levels(axes, curve)
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


def _draw_levels(axes: "Axes", curve: Curve) -> None:
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


@dataclass(frozen=True, kw_only=True)
class SweepOnPage:
    """A sweep as a page shows it."""

    result: SweepResult
    curve: CurveResult | None
    name: str
    """Makes the ids of its figures unique on the page."""

    @classmethod
    def read(cls, folder: Path, name: str = "sweep") -> Self:
        """Read the results in the folder of a sweep.

        Raises:
            OSError: there is no sweep.json.
            ValueError: sweep.json or curve.json is not the result of a sweep.
        """
        path = folder / CURVE_FILE
        return cls(
            result=read_result(SweepResult, folder / RESULT_FILE),
            curve=read_result(CurveResult, path) if path.exists() else None,
            name=name,
        )

    @property
    def picture(self) -> str:
        """The accuracy by layer, as SVG."""
        return to_svg(make_sweep_figure(self.result), f"sweep-{self.name}")

    @property
    def curve_picture(self) -> str:
        """The learning curve, as SVG."""
        assert self.curve is not None, "only a sweep with a curve shows one"
        return to_svg(make_curve_figure(self.curve), f"curve-{self.name}")

    @property
    def curve_rows(self) -> dict[str, str]:
        """The numbers of the curve, by what they are of."""
        return curve_rows(self.curve) if self.curve is not None else {}


def read_own_sweep(head: str, name: str) -> SweepOnPage | None:
    """Read the sweep that a head won; None if it won none.

    Raises:
        ValueError: sweep.json is not the result of a sweep.
    """
    folder = Path(head).parent
    return SweepOnPage.read(folder, name) if (folder / RESULT_FILE).exists() else None


def write_sweep_page(folder: Path, experiment: str) -> Path:
    """Write the page into the folder of a sweep; one with the same content stays as it is."""
    path = folder / PAGE_FILE
    sweep = SweepOnPage.read(folder)
    page = render("sweep.html.j2", title=f"{experiment}: sweep", sweep=sweep).encode()
    if not path.exists() or path.read_bytes() != page:
        with atomic_path(path) as temporary:
            temporary.write_bytes(page)
    return path
