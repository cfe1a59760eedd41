"""The report as one HTML page that needs nothing but itself: no script, no font, no network."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from headtrain.evaluation.mistakes import Mistake
from headtrain.evaluation.results import Evaluation
from headtrain.evaluation.samples.visible import to_visible
from headtrain.evaluation.shortcuts.verdict import verdict_sentence
from headtrain.metrics.bootstrap import Interval
from headtrain.report.figures import Picture

TEMPLATE = "page.html.j2"


def render_page(
    *,
    title: str,
    about: Mapping[str, str],
    evaluation: Evaluation,
    split: str,
    pictures: Sequence[Picture],
    mistakes: Sequence[Mistake],
) -> str:
    """The page of one split.

    Whatever comes from the data (programs, statements, ids, names of languages) is text to the
    template and escaped by it; only our own figures are taken as they are.
    """
    # NOTE: autoescape for everything, not by file name: a solution is untrusted text.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["interval"] = _interval
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["visible"] = to_visible
    source = files("headtrain.report").joinpath(TEMPLATE).read_text("utf-8")
    result, details = evaluation.splits[split], evaluation.details[split]
    head = result.judges["head"].accuracy_over_problems.estimate
    verdict = details.verdict
    sentence = (
        "There is no shortcut to compare with."
        if verdict is None
        else verdict_sentence(
            verdict, head, result.judges[verdict.best_shortcut].accuracy_over_problems.estimate
        )
    )
    return environment.from_string(source).render(
        title=title,
        about=about,
        evaluation=evaluation,
        split=split,
        result=result,
        details=details,
        sentence=sentence,
        pictures=pictures,
        mistakes=mistakes,
        level=f"{evaluation.confidence:.0%}",
        difference=evaluation.train_minus.get(split),
    )


def _interval(interval: Interval | None) -> Markup:
    """The number, and its bounds apart: a phone shows them on a line below."""
    if interval is None:
        return Markup("-")
    estimate, _, bounds = str(interval).partition(" ")
    shown = Markup('{} <span class="bounds">{}</span>').format(estimate, bounds)
    return shown if bounds else Markup(estimate)
