"""The figures of an evaluation, each an answer to one question: add a new one to FIGURES."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featurize.arrays import Ints
from featurize.io.figures import (
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
from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.evaluation.numbers import OVER_PAIRS, OVER_PROBLEMS, Quantity
from headtrain.evaluation.results import PREFIX, Details, Slice
from headtrain.metrics.bootstrap import Interval
from headtrain.metrics.pairs import MarginCounts, count_margins
from headtrain.metrics.pairwise import pairwise_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PROBLEMS = 2000
"""Problems drawn one by one; of more than that, an evenly spaced selection."""
LABEL_WIDTH = 22
"""Characters of a line of a label, so that the plot beside it has most of the width."""

MARGIN_BINS = 20
"""Bars on each side of 0."""
MARGIN_SHARE = 0.995
"""Share of the pairs whose margin the bars distinguish."""

CURVES = {
    "train_subset/accuracy_over_problems": "train problems (a subset)",
    "holdout/accuracy_over_problems": "train problems held out",
    "valid/accuracy_over_problems": "valid problems",
}
"""Metrics of the training that the report shows as curves, with their names there."""

History = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) of every metric, in the order of the steps."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the figures of one split are drawn from."""

    evaluated: EvaluatedHead
    split: str
    history: History = field(default_factory=dict)
    sweep: Mapping[str, Interval] = field(default_factory=dict)
    """Accuracy over problems by the tensors a head reads."""

    @property
    def details(self) -> Details:
        """The details of the split."""
        return self.evaluated.evaluation.details[self.split]


class FigureSpec(NamedTuple):
    """One figure of the report."""

    name: str
    title: str
    caption: str
    draw: "Callable[[Content], Figure | None]"
    """None if the evaluation has nothing to draw."""
    is_of_every_split: bool = False
    """Drawn for train as well; name and title get the name of the split."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered figure."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


def render_all(content: Content) -> list[Picture]:
    """Render every figure that the evaluation has data for."""
    return [picture for spec in FIGURES for picture in _render(spec, content)]


def _render(spec: FigureSpec, content: Content) -> Iterator[Picture]:
    for split in content.evaluated.splits if spec.is_of_every_split else [""]:
        name = f"{spec.name}-{split}" if split else spec.name
        title = f"{spec.title} on {split}" if split else spec.title
        figure = spec.draw(replace(content, split=split or content.split))
        if figure is not None:
            yield Picture(
                name=name,
                title=title,
                caption=spec.caption,
                png=to_png(figure),
                svg=to_svg(figure, name),
            )


def draw_shortcuts(content: Content) -> "Figure":
    """Accuracy of the head and of every shortcut with its interval, the head on top."""
    judges = content.evaluated.evaluation.splits[content.split].judges
    return draw_judges({name: found[OVER_PROBLEMS.key] for name, found in judges.items()})


def draw_judges(found: Mapping[str, Interval]) -> "Figure":
    """Draw accuracies over problems by judge, the first one on top and in the head's colour."""
    names = list(found)[::-1]
    with drawing(height=0.9 + 0.32 * len(names)) as (figure, axes):
        draw_whiskers(axes, [found[name] for name in names], [INK] * (len(names) - 1) + [HEAD])
        axes.axvline(0.5, color=FAINT, linestyle=":")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(-0.5, len(names) - 0.5)
        axes.set_xlabel("accuracy, mean over problems")
        return figure


def draw_margins(content: Content) -> "Figure":
    """Histogram of the margin within pairs, V+ - V-, with 0 between wrong and right."""
    found = count_margins(content.evaluated.splits[content.split].scored)
    total = max(1, int(found.wrong.sum() + found.right.sum()) + found.num_ties)
    wrong, right, width = _coarsened(found)
    with drawing() as (figure, axes):
        edges = width * np.arange(MARGIN_BINS)
        for counts, left, name, colour in (
            (wrong, -edges - width, "wrong order", INCORRECT),
            (right, edges, "right order", CORRECT),
        ):
            share = counts.sum() / total
            axes.bar(left, counts / total, width, align="edge", color=colour, alpha=0.8,
                     label=f"{name}, {share:.1%}")  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel("value of the correct minus that of the incorrect output")
        axes.set_ylabel("share of pairs")
        axes.legend(title=f"ties {found.num_ties / total:.1%}" if found.num_ties else None)
        return figure


def _coarsened(found: MarginCounts) -> tuple[Ints, Ints, float]:
    """Join bins until MARGIN_BINS on a side hold all but the widest pairs; those are in the last.

    Returns the wrong and the right pairs, and the new width.
    """
    share = np.cumsum(found.wrong + found.right) / max(1, int((found.wrong + found.right).sum()))
    reach = int(np.searchsorted(share, MARGIN_SHARE)) + 1
    step = max(1, -(-reach // MARGIN_BINS))
    starts = np.arange(MARGIN_BINS) * step
    wrong, right = (np.add.reduceat(side, starts) for side in (found.wrong, found.right))
    return wrong, right, found.width * step


def draw_problems(content: Content) -> "Figure":
    """Accuracy of each problem, sorted."""
    counts = pairwise_counts(content.evaluated.splits[content.split].scored)
    with drawing() as (figure, axes):
        accuracy = counts.wins / counts.num_pairs
        order = np.argsort(accuracy, kind="stable")
        places = np.arange(len(order))
        if len(order) > MAX_PROBLEMS:
            places = np.linspace(0, len(order) - 1, MAX_PROBLEMS).astype(int)
        sizes = 60 * np.sqrt(counts.num_pairs / counts.num_pairs.max())[order][places] + 4
        share = 100 * (places + 0.5) / len(order)
        axes.scatter(share, accuracy[order][places], s=sizes, color=HEAD, alpha=0.5, linewidths=0)
        axes.axhline(0.5, color=FAINT, linestyle=":")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("problems, worst to best (%)")
        axes.set_ylabel("accuracy within the problem")
        return figure


def draw_reliability(content: Content) -> "Figure | None":
    """Share of correct samples against predicted probability."""
    bins = content.details.reliability
    if not bins:
        return None
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
        axes.set_xlabel("predicted probability of being correct")
        axes.set_ylabel("share correct")
        return figure


def draw_length_difference(content: Content) -> "Figure | None":
    """Accuracy of the head by the length difference of a pair."""
    parts = content.details.breakdowns.get("length_difference", ())
    title = "length of the correct output minus the incorrect one (tokens)"
    return _draw_slices(parts, OVER_PAIRS, title, rotation=25, ha="right")


def draw_prefixes(content: Content) -> "Figure | None":
    """Accuracy of the head by how much of the outputs it has read."""
    parts = content.details.breakdowns.get(PREFIX, ())
    return _draw_slices(parts, OVER_PROBLEMS, "tokens of both outputs")


def _draw_slices(
    parts: Sequence[Slice], quantity: Quantity, title: str, **ticks: Any
) -> "Figure | None":
    """Draw the accuracy of the head on subsets of the pairs; None without any."""
    if not parts:
        return None
    with drawing() as (figure, axes):
        found = [part.judges["head"][quantity.key] for part in parts]
        draw_whiskers(axes, found, [HEAD] * len(parts), is_vertical=True)
        axes.axhline(0.5, color=FAINT, linestyle=":")
        axes.set_xticks(range(len(parts)), [part.name for part in parts], **ticks)
        axes.set_xlabel(title)
        axes.set_ylabel(quantity.title)
        return figure


def draw_best_of_n(content: Content) -> "Figure | None":
    """Pass rate by n, for every way to pick one of n."""
    found = content.details.best_of_n
    if len(found.n) < 2:
        return None
    with drawing(height=HEIGHT + 0.5) as (figure, axes):
        for (picker, rates), colour in zip(found.pickers.items(), cycle(PALETTE), strict=False):
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
        return figure


def draw_training(content: Content) -> "Figure | None":
    """Train and validation accuracy over the optimizer steps."""
    if not content.history:
        return None
    with drawing() as (figure, axes):
        for (name, points), colour in zip(content.history.items(), cycle(PALETTE), strict=False):
            steps, values = zip(*points, strict=True)
            is_dense = len(points) > 30
            axes.plot(steps, values, color=colour, label=CURVES.get(name, name), alpha=0.8,
                      marker=None if is_dense else "o", markersize=3)  # fmt: skip
        axes.set_xlabel("optimizer step")
        axes.axhline(0.5, color=FAINT, linestyle=":")
        axes.set_ylabel("accuracy over problems")
        axes.legend()
        return figure


def draw_layers(content: Content) -> "Figure | None":
    """Accuracy by the tensors a head reads, in the order given."""
    sweep = content.sweep
    if not sweep:
        return None
    names = list(sweep)[::-1]
    labels = [textwrap.fill(name, LABEL_WIDTH) for name in names]
    num_lines = sum(1 + label.count("\n") for label in labels)
    with drawing(height=0.9 + 0.26 * num_lines) as (figure, axes):
        draw_whiskers(axes, [sweep[name] for name in names], [HEAD] * len(names))
        axes.axvline(0.5, color=FAINT, linestyle=":")
        axes.set_yticks(range(len(names)), labels)
        axes.set_xlabel("accuracy over problems", loc="right")
        return figure


FIGURES = (
    FigureSpec("shortcuts", "Head and shortcuts",
               "Pairwise accuracy over problems with its interval; the dotted line is chance.",
               draw_shortcuts),
    FigureSpec("margins", "Margins within pairs",
               "V+ - V- of every pair: left of 0 the head prefers the incorrect output.",
               draw_margins, is_of_every_split=True),
    FigureSpec("problems", "Accuracy by problem",
               "One point per problem, sorted; its area grows with the number of pairs.",
               draw_problems),
    FigureSpec("reliability", "Reliability",
               "Share correct by predicted probability; the area grows with the samples.",
               draw_reliability),
    FigureSpec("length-difference", "Accuracy by length difference",
               "Pairs grouped by how many tokens longer the correct output is.",
               draw_length_difference),
    FigureSpec("prefixes", "Accuracy from prefixes",
               "All pairs, each output scored by its first tokens alone.",
               draw_prefixes),
    FigureSpec("best-of-n", "Best of n",
               "Pass rate when one of n candidates is picked, mean over all subsets of n.",
               draw_best_of_n),
    FigureSpec("training", "Training",
               "Accuracy over problems by step, all without dropout: a subset of the train "
               "problems beside problems the head is not trained on.",
               draw_training),
    FigureSpec("sweep", "Layer sweep", "Accuracy over problems by the tensors a head reads.",
               draw_layers),
)  # fmt: skip
"""All figures, in the order of the page."""


def draw_whiskers(
    axes: "Axes", found: Iterable[Interval], colours: Sequence[str], *, is_vertical: bool = False
) -> None:
    """Draw estimates as points and their intervals as lines, at places 0, 1, ..."""
    for place, (interval, colour) in enumerate(zip(found, colours, strict=True)):
        estimate = interval.estimate
        low = estimate if interval.low is None else interval.low
        high = estimate if interval.high is None else interval.high
        for values, options in (
            ([low, high], {"linewidth": 2}),
            ([estimate], {"marker": "o", "markersize": 5}),
        ):
            places = [place] * len(values)
            x, y = (places, values) if is_vertical else (values, places)
            axes.plot(x, y, color=colour, **options)
