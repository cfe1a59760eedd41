"""An audit in pictures: lengths by label, balance and pairs of problems, tokens against limits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from featurize.data.audit.labels import LabelAudit
from featurize.data.audit.lengths import LengthAudit
from featurize.data.audit.overlap import OverlapAudit
from featurize.data.audit.tokens import TokenAudit
from featurize.io.files import atomic_path

CORRECT, INCORRECT, NEUTRAL = "#0072b2", "#d55e00", "#6b7280"  # told apart by the colour-blind too
NUM_BINS = 40
DOTS_PER_INCH = 120


def draw_lengths(
    path: Path,
    lengths: npt.NDArray[np.int64],
    is_correct: npt.NDArray[np.bool_],
    audit: LengthAudit,
) -> None:
    """How long correct and incorrect outputs are; lengths and is_correct are [samples]."""
    figure, axes = _new_figure(f"Length of outputs ({audit.unit})")
    bins = np.unique(
        np.geomspace(max(1, lengths.min()), lengths.max() + 1, NUM_BINS).astype(int)
    ).tolist()
    for wanted, colour, name, mean in (
        (True, CORRECT, "correct", audit.mean_correct),
        (False, INCORRECT, "incorrect", audit.mean_incorrect),
    ):
        chosen = lengths[is_correct == wanted]
        if mean is not None:
            label = f"{name}: {len(chosen):,}, mean {mean:,.0f}"
            weights = np.full(len(chosen), 100 / len(chosen))
            axes.hist(chosen, bins, weights=weights, histtype="step", color=colour, label=label)
            axes.axvline(mean, color=colour, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(f"{audit.unit} of the output")
    axes.set_ylabel("% of the samples of a label")
    if audit.pairs.longer_over_pairs is not None:
        axes.set_title(
            f'"longer is correct" wins {audit.pairs.longer_over_pairs:.1%} of the pairs, '
            f"{audit.pairs.longer_over_problems:.1%} of a problem",
            fontsize="medium",
        )
    _save(figure, axes, path)


def draw_labels(path: Path, audit: LabelAudit) -> None:
    """Problems by their share of correct samples."""
    figure, axes = _new_figure("Balance of labels")
    edges = np.linspace(0, 1, len(audit.balance) + 1)
    axes.bar(edges[:-1], audit.balance, width=np.diff(edges) * 0.92, align="edge", color=NEUTRAL)
    axes.set_xlabel("share of correct samples in a problem")
    axes.set_ylabel("problems")
    axes.set_title(
        f"{audit.num_problems_with_both:,} of {audit.num_problems:,} problems have both labels",
        fontsize="medium",
    )
    _save(figure, axes, path)


def draw_pairs(path: Path, audit: LabelAudit) -> None:
    """Problems by the number of pairs they hold, with the caps tried."""
    figure, axes = _new_figure("Pairs of a problem")
    _draw_powers(
        axes, audit.pairs_histogram, NEUTRAL, f"{audit.num_problems_with_pairs:,} problems"
    )
    for cap, left in audit.pairs_left_by_cap.items():
        name = f"a cap of {cap:,} leaves {left:,} of {audit.num_pairs:,} pairs"
        axes.axvline(cap, color=INCORRECT, linestyle="--", label=name)
    axes.set_xlabel("possible pairs of a problem")
    axes.set_ylabel("% of the problems that have pairs")
    _save(figure, axes, path)


def draw_overlap(path: Path, audit: OverlapAudit) -> None:
    """Pairs of like problems by similarity."""
    figure, axes = _new_figure("Problems that come again")
    parts = {
        f"{len(audit.shared):,} with {audit.against}": (audit.shared, INCORRECT),
        f"{len(audit.within):,} within the split": (audit.within, NEUTRAL),
    }
    shown = {name: part for name, part in parts.items() if part[0]}
    axes.hist(
        [[pair.similarity for pair in pairs] for pairs, _ in shown.values()],
        np.linspace(min(audit.threshold, 0.95), 1, 21).tolist(),
        stacked=True,
        color=[colour for _, colour in shown.values()],
        label=list(shown),
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"share of {audit.ngram}-grams that two statements have in common")
    axes.set_ylabel("pairs of problems")
    _save(figure, axes, path)


def draw_tokens(path: Path, audit: TokenAudit) -> None:
    """Tokens of prompts and outputs before cutting, and where they are cut."""
    figure, axes = _new_figure("Tokens before cutting")
    for part, colour, name in (
        (audit.prompts, CORRECT, "prompts"),
        (audit.outputs, INCORRECT, "outputs"),
    ):
        label = f"{part.num_texts:,} {name}, {part.num_tokens:,} tokens"
        _draw_powers(axes, part.histogram, colour, label, is_outline=True)
    axes.axvline(audit.prompt_limit, color=CORRECT, linestyle=":", label="prompts are cut here")
    axes.axvline(audit.max_length, color=NEUTRAL, linestyle="--", label="prompt + output, here")
    axes.set_xlabel("tokens")
    axes.set_ylabel("% of the prompts, of the outputs")
    axes.set_title(
        f"prompts cut: {audit.prompts_cut.num_cut:,}, outputs cut: {audit.outputs_cut.num_cut:,}",
        fontsize="medium",
    )
    _save(figure, axes, path)


def _draw_powers(
    axes: Axes, histogram: Mapping[int, int], colour: str, label: str, *, is_outline: bool = False
) -> None:
    """Bars between powers of two, on a logarithmic axis."""
    if not histogram:
        return
    total = sum(histogram.values())
    filled = [edge for edge, number in histogram.items() if number]
    edges = [edge for edge in histogram if edge >= min(filled)]
    axes.stairs(
        [100 * histogram[edge] / total for edge in edges],
        [edges[0] / 2, *edges],
        color=colour,
        label=label,
        fill=not is_outline,
        linewidth=1.5,
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _new_figure(title: str) -> tuple[Figure, Axes]:
    # NOTE: not pyplot, which picks a display and keeps every figure alive.
    figure = Figure(figsize=(7, 4.2), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontweight="bold")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
