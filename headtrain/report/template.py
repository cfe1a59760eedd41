"""The templates of the pages: everything from the data is escaped, whatever it is."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from headtrain.evaluation.texts import to_visible
from headtrain.metrics.bootstrap import Interval
from headtrain.report.diff import diff
from headtrain.report.glossary import GLOSSARY, PICKERS, term_id

WIDTH, HEIGHT, EDGE = 64, 18, 3

_LINE = Markup(
    '<svg class="along" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
    '<polyline points="{}"/><circle cx="{}" cy="{}" r="2.2"/></svg>'
)


def render(template: str, **content: Any) -> str:
    """Render a template of this folder."""
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> Environment:
    # NOTE: autoescape everything, not by file name: a solution is untrusted text.
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = show_interval
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["visible"] = to_visible
    environment.filters["term_id"] = term_id
    environment.globals |= {
        "glossary": GLOSSARY,
        "pickers": PICKERS,
        "diff": diff,
        "draw_along": draw_along,
        "say_along": say_along,
    }
    return environment


def _read(name: str) -> str:
    return files("headtrain.report").joinpath(name).read_text("utf-8")


def show_interval(interval: Interval | None) -> Markup:
    """Format the estimate and its bounds as two elements: a phone shows them on two lines."""
    if interval is None:
        return Markup("-")
    estimate, _, bounds = str(interval).partition(" ")
    shown = Markup('{} <span class="bounds">{}</span>').format(estimate, bounds)
    return shown if bounds else Markup(estimate)


def draw_along(along: Mapping[float, float], bounds: tuple[float, float]) -> Markup:
    """Draw values by the share of the output they were computed from, as an SVG element.

    The line takes the text colour of its surroundings. Empty without two values to join.

    Args:
        along: value of each prefix by its share of the output, ascending, the last one 1.
        bounds: lowest and highest value of the drawing.
    """
    if len(along) < 2:
        return Markup("")
    points = _points(along, bounds)
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    says = f"value along the output: {say_along(along)}"
    end = (f"{number:.1f}" for number in points[-1])
    return _LINE.format(WIDTH, HEIGHT, says, says, listed, *end)


def say_along(along: Mapping[float, float]) -> str:
    """List the values: `25% -0.31, 50% +0.10, ...`."""
    return ", ".join(f"{share:.0%} {value:+.2f}" for share, value in along.items())


def _points(along: Mapping[float, float], bounds: tuple[float, float]) -> list[tuple[float, float]]:
    """Places of the values: the first prefix on the left, the highest value on top."""
    first, (low, high) = min(along), bounds
    width, height, span = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE, high - low
    return [
        (
            EDGE + width * (share - first) / (1 - first),
            EDGE + height * ((high - value) / span if span else 0.5),
        )
        for share, value in along.items()
    ]
