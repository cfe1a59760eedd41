"""The templates of the pages: everything from the data is escaped, whatever it is."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from headtrain.evaluation.texts import to_visible
from headtrain.metrics.bootstrap import Interval
from headtrain.report.along import draw_along, say_along
from headtrain.report.diff import diff
from headtrain.report.glossary import GLOSSARY, PICKERS, term_id


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
