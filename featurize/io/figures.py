"""The style of all figures: one palette, text in the colour of the page, readable on a phone."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of medium lightness, so that they are visible on white and on black.
CORRECT, INCORRECT, HEAD, OTHER, FAINT = "#1b9e77", "#d9600f", "#3b7dd8", "#9467bd", "#8a8a8a"
PALETTE = (HEAD, FAINT, CORRECT, INCORRECT, OTHER, "#b8860b")

INK = "#010203"
"""Colour of text and lines; in an SVG it becomes the text colour of the page."""

WIDTH, HEIGHT = 4.4, 3.0  # inches: text stays readable when a phone shows the whole figure
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text: searchable, in the font of the page
}


@contextmanager
def drawing(height: float = HEIGHT) -> Iterator["tuple[Figure, Axes]"]:
    """Make a figure with one pair of axes in our style; matplotlib's settings are restored."""
    with drawing_row([1.0], width=WIDTH, height=height) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def drawing_row(
    ratios: list[float], *, width: float, height: float
) -> Iterator["tuple[Figure, list[Axes]]"]:
    """Make a figure with axes side by side, their widths in these ratios, and one y axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        row = figure.subplots(1, len(ratios), width_ratios=ratios, sharey=True, squeeze=False)[0]
        for axes in row:
            axes.grid(visible=True, color=FAINT, alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
        yield figure, list(row)


def to_png(figure: "Figure") -> bytes:
    """Render the figure on white."""
    return _save(figure, {}, "png", dpi=160, facecolor="white")


def to_svg(figure: "Figure", name: str) -> str:
    """Render the figure as an element of a page, without background, text in the page's colour.

    `name` makes the ids of a figure unique on the page, and the same in every run.
    """
    options: dict[str, Any] = {"transparent": True, "metadata": {"Date": None}}
    text = _save(figure, {"svg.hashsalt": name}, "svg", **options).decode("utf-8")
    return (
        text[text.index("<svg") :]
        .replace(INK, "currentColor")
        .replace('id="', f'id="{name}-')
        .replace("url(#", f"url(#{name}-")
        .replace('href="#', f'href="#{name}-')
    )


def _save(figure: "Figure", style: dict[Any, Any], kind: str, **options: Any) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_STYLE | style):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
