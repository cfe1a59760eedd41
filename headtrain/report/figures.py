"""The figures of an evaluation, each a picture of one question."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headtrain.evaluation.results import BestOfN, Evaluation, JudgeResult, Slice
from headtrain.metrics.bootstrap import Interval
from headtrain.metrics.calibration import ReliabilityBin
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from headtrain.report.style import (
    CORRECT,
    FAINT,
    HEAD,
    HEIGHT,
    INCORRECT,
    INK,
    PALETTE,
    drawing,
    to_png,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PROBLEMS = 2000
"""Problems drawn one by one; of more, so many at even distances."""
WIDEST_LABEL = 22
"""Characters of a line of a label, so that the plot beside it has most of the width."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished figure."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


History = Mapping[str, Sequence[tuple[int, float]]]
"""By metric: (step, value) in the order of the steps."""


def draw_all(
    evaluation: Evaluation,
    split: str,
    scored: Mapping[str, ScoredSamples],
    history: History,
    sweep: Mapping[str, Interval],
) -> list[Picture]:
    """Every figure that the evaluation has something for."""
    details, result = evaluation.details[split], evaluation.splits[split]
    pictures = [
        _picture("shortcuts", shortcuts(result.judges), "Head and shortcuts",
                 "Pairwise accuracy over problems with its interval; the dotted line is chance."),
    ]  # fmt: skip
    for name, samples in scored.items():
        pictures.append(
            _picture(f"scores-{name}", scores(samples), f"Scores on {name}",
                     "Share of the correct and of the incorrect outputs by score of the head.")
        )  # fmt: skip
    pictures.append(
        _picture("problems", by_problem(scored[split]), "Accuracy by problem",
                 "Every problem once, in order; the area of a point grows with its pairs.")
    )  # fmt: skip
    if details.reliability:
        pictures.append(
            _picture("reliability", reliability_diagram(details.reliability), "Reliability",
                     "Share correct by probability; the area of a point grows with its samples.")
        )  # fmt: skip
    parts = details.breakdowns.get("length_difference", ())
    if parts:
        pictures.append(
            _picture("length-difference", by_length(parts), "Accuracy by length difference",
                     "Pairs by how many tokens longer the correct output is.")
        )  # fmt: skip
    if details.best_of_n is not None and len(details.best_of_n.n) > 1:
        pictures.append(
            _picture("best-of-n", best_of_n(details.best_of_n), "Best of n",
                     "Pass rate when one of n candidates is picked, mean over all subsets.")
        )  # fmt: skip
    if history:
        pictures.append(
            _picture("training", training_curve(history), "Training",
                     "Pairwise accuracy over the optimizer steps, as tracked.")
        )  # fmt: skip
    if sweep:
        pictures.append(
            _picture("sweep", layer_sweep(sweep), "Layer sweep",
                     "Accuracy over problems of a head on each tensor.")
        )  # fmt: skip
    return pictures


def _picture(name: str, drawn: "Drawn", title: str, caption: str) -> Picture:
    return Picture(
        name=name,
        title=title,
        caption=caption,
        svg=drawn.svg(name),
        png=drawn.png,
    )


class Drawn:
    """A figure kept as bytes and ready to be made an element of a page."""

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure
        self.png = to_png(figure)

    def svg(self, name: str) -> str:
        """The figure as an SVG element whose ids begin with `name`."""
        return to_svg(self.figure, name)


def shortcuts(judges: Mapping[str, JudgeResult]) -> Drawn:
    """Accuracy of every judge with its interval, the head on top."""
    with drawing(height=0.9 + 0.32 * len(judges)) as (figure, axes):
        names = list(judges)[::-1]
        for place, name in enumerate(names):
            found = judges[name].accuracy_over_problems
            colour = HEAD if name == "head" else INK
            _whisker(axes, place, found, colour)
        axes.axvline(0.5, color=FAINT, linestyle=":")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_xlabel("accuracy, mean over problems")
        return Drawn(figure)


def scores(scored: ScoredSamples) -> Drawn:
    """Histograms of the scores of either label."""
    with drawing() as (figure, axes):
        low, high = np.quantile(scored.scores, [0.002, 0.998])
        edges = np.linspace(low, high if high > low else low + 1, 41).tolist()
        inside = np.clip(scored.scores, edges[0], edges[-1])
        for has_label, name, colour in (
            (scored.is_correct, "correct", CORRECT),
            (~scored.is_correct, "incorrect", INCORRECT),
        ):
            weights = np.full(int(has_label.sum()), 1 / max(int(has_label.sum()), 1))
            axes.hist(inside[has_label], edges, weights=weights, label=name,
                      color=colour, alpha=0.25)  # fmt: skip
            axes.hist(inside[has_label], edges, weights=weights, color=colour,
                      histtype="step", linewidth=1.5)  # fmt: skip
        axes.set_xlabel("score of the head")
        axes.set_ylabel("share of the samples")
        axes.legend()
        return Drawn(figure)


def by_problem(scored: ScoredSamples) -> Drawn:
    """Accuracy of each problem, sorted."""
    with drawing() as (figure, axes):
        counts = pairwise_counts(scored)
        accuracy = counts.wins / counts.num_pairs
        order = np.argsort(accuracy, kind="stable")
        places = np.arange(len(order))
        if len(order) > MOST_PROBLEMS:
            places = np.linspace(0, len(order) - 1, MOST_PROBLEMS).astype(int)
        sizes = 60 * np.sqrt(counts.num_pairs / counts.num_pairs.max())[order][places] + 4
        share = 100 * (places + 0.5) / len(order)
        axes.scatter(share, accuracy[order][places], s=sizes, color=HEAD, alpha=0.5, linewidths=0)
        axes.axhline(0.5, color=FAINT, linestyle=":")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("problems, worst to best (%)")
        axes.set_ylabel("accuracy in the problem")
        return Drawn(figure)


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> Drawn:
    """Share correct against probability."""
    with drawing() as (figure, axes):
        total = sum(part.num_samples for part in bins)
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":")
        x = [part.mean_probability for part in bins]
        y = [part.share_correct for part in bins]
        axes.plot(x, y, color=HEAD, alpha=0.5)
        axes.scatter(
            x, y, s=[8 + 400 * part.num_samples / total for part in bins], color=HEAD, alpha=0.7
        )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("probability of being correct")
        axes.set_ylabel("share correct")
        return Drawn(figure)


def by_length(parts: Sequence[Slice]) -> Drawn:
    """Accuracy of the head in bins of the length difference."""
    with drawing() as (figure, axes):
        for place, part in enumerate(parts):
            found = part.judges["head"].accuracy_over_pairs
            _whisker(axes, place, found, HEAD, vertical=True)
        axes.axhline(0.5, color=FAINT, linestyle=":")
        names = [part.name.replace(" and more", " or more") for part in parts]
        axes.set_xticks(range(len(parts)), names, rotation=25, ha="right")
        axes.set_xlabel("tokens the correct output is longer by")
        axes.set_ylabel("accuracy over pairs")
        return Drawn(figure)


def best_of_n(found: BestOfN) -> Drawn:
    """Pass rate by n, of every picker."""
    with drawing(height=HEIGHT + 0.5) as (figure, axes):
        for (picker, rates), colour in zip(found.pickers.items(), _colours(), strict=False):
            is_head = picker == "head"
            estimates = [rate.estimate for rate in rates]
            axes.plot(found.n, estimates, color=colour, label=picker, marker="o", markersize=3,
                      linestyle="-" if is_head else "--")  # fmt: skip
            if is_head and all(rate.low is not None for rate in rates):
                low = [rate.low or 0.0 for rate in rates]
                high = [rate.high or 0.0 for rate in rates]
                axes.fill_between(found.n, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(found.n, [str(n) for n in found.n])
        axes.set_xlabel("candidates, n")
        axes.set_ylabel("pass rate")
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        return Drawn(figure)


def training_curve(history: History) -> Drawn:
    """Train and validation accuracy over the steps."""
    with drawing() as (figure, axes):
        for (name, points), colour in zip(history.items(), _colours(), strict=False):
            steps, values = zip(*points, strict=True)
            is_dense = len(points) > 30
            axes.plot(steps, values, color=colour, label=name, alpha=0.8,
                      marker=None if is_dense else "o", markersize=3)  # fmt: skip
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("pairwise accuracy")
        axes.legend()
        return Drawn(figure)


def layer_sweep(sweep: Mapping[str, Interval]) -> Drawn:
    """Accuracy by tensor, in the order given."""
    names = list(sweep)[::-1]
    labels = [textwrap.fill(name, WIDEST_LABEL) for name in names]
    num_lines = sum(1 + label.count("\n") for label in labels)
    with drawing(height=0.9 + 0.26 * num_lines) as (figure, axes):
        for place, name in enumerate(names):
            _whisker(axes, place, sweep[name], HEAD)
        axes.axvline(0.5, color=FAINT, linestyle=":")
        axes.set_yticks(range(len(names)), labels)
        axes.set_xlabel("accuracy over problems", loc="right")
        return Drawn(figure)


def _whisker(
    axes: "Axes", place: int, found: Interval, colour: str, *, vertical: bool = False
) -> None:
    """An estimate as a point, its interval as a line through it."""
    low = found.estimate if found.low is None else found.low
    high = found.estimate if found.high is None else found.high
    along: npt.NDArray[np.float64] = np.array([low, high])
    if vertical:
        axes.plot([place, place], along, color=colour, linewidth=2)
        axes.plot([place], [found.estimate], color=colour, marker="o", markersize=5)
    else:
        axes.plot(along, [place, place], color=colour, linewidth=2)
        axes.plot([found.estimate], [place], color=colour, marker="o", markersize=5)


def _colours() -> Iterator[str]:
    while True:
        yield from PALETTE
