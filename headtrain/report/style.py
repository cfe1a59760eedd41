"""How figures look: one palette, text in the colour of the page, small enough for a phone."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of middling lightness, so that they stand out from white and from black alike.
CORRECT, INCORRECT, HEAD, OTHER, FAINT = "#1b9e77", "#d9600f", "#3b7dd8", "#9467bd", "#8a8a8a"
PALETTE = (HEAD, FAINT, CORRECT, INCORRECT, OTHER, "#b8860b")

INK = "#010203"
"""Colour of text and lines; in an SVG it becomes the colour of the page's own text."""

WIDTH, HEIGHT = 4.4, 3.0  # inches: text keeps a readable size when a phone shows all of it
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
    "svg.fonttype": "none",  # text stays text: it can be found, and takes the page's font
}


@contextmanager
def drawing(height: float = HEIGHT) -> Iterator["tuple[Figure, Axes]"]:
    """A figure and its axes, in our style; nothing outside is changed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        yield figure, axes


def to_png(figure: "Figure") -> bytes:
    """The figure on white, for whoever shows pictures."""
    return _saved(figure, "png", dpi=160, facecolor="white")


def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an element of a page: no background, text in the page's colour.

    `name` keeps the ids of several figures on one page apart, and the same from run to run.
    """
    from matplotlib import rc_context

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        text = _saved(figure, "svg", transparent=True, metadata={"Date": None}).decode("utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return (
        text.replace('id="', f'id="{name}-')
        .replace("url(#", f"url(#{name}-")
        .replace('href="#', f'href="#{name}-')
    )


def _saved(figure: "Figure", kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
