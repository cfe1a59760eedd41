"""Writes the report: one self-contained HTML page, without script, font or network, and PNGs."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from featurize.io.files import atomic_path
from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.evaluation.findings import find_biases
from headtrain.evaluation.mistakes import Mistake, worst_mistakes
from headtrain.evaluation.numbers import JUDGE
from headtrain.evaluation.results import Evaluation
from headtrain.evaluation.shortcuts.verdict import verdict_sentence
from headtrain.evaluation.texts import to_visible
from headtrain.metrics.bootstrap import Interval
from headtrain.report.figures import Content, History, Picture, render_all
from headtrain.report.tables import value_rows

TEMPLATE = "page.html.j2"


def write_report(
    folder: Path,
    judgement: EvaluatedHead,
    split: str,
    *,
    title: str,
    about: Mapping[str, str],
    num_mistakes: int,
    history: History | None = None,
    sweep: Mapping[str, Interval] | None = None,
) -> list[Path]:
    """Write `<split>.html` and a PNG per figure in `<split>/`; return the paths, the page first.

    Equal judgements give equal files.
    """
    pictures = render_all(
        Content(judgement=judgement, split=split, history=history or {}, sweep=sweep or {})
    )
    page = render_page(
        title=title,
        about=about,
        evaluation=judgement.evaluation,
        split=split,
        pictures=pictures,
        mistakes=worst_mistakes(judgement, split, num_mistakes),
    )
    contents = {folder / f"{split}.html": page.encode()}
    contents |= {folder / split / f"{one.name}.png": one.png for one in pictures}
    for path, content in contents.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return list(contents)


def render_page(
    *,
    title: str,
    about: Mapping[str, str],
    evaluation: Evaluation,
    split: str,
    pictures: Sequence[Picture],
    mistakes: Sequence[Mistake],
) -> str:
    """Render the page of one split.

    Everything from the data (programs, statements, ids, names of languages) is escaped; only our
    own figures are inserted as markup.
    """
    # NOTE: autoescape everything, not by file name: a solution is untrusted text.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["interval"] = _interval
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["visible"] = to_visible
    source = files("headtrain.report").joinpath(TEMPLATE).read_text("utf-8")
    return environment.from_string(source).render(
        title=title,
        about=about,
        evaluation=evaluation,
        split=split,
        result=evaluation.splits[split],
        details=evaluation.details[split],
        sentence=verdict_sentence(evaluation.splits[split], evaluation.details[split]),
        findings=find_biases(evaluation, split),
        pictures=pictures,
        mistakes=mistakes,
        level=f"{evaluation.confidence:.0%}",
        values=value_rows(evaluation, split),
        quantities=JUDGE,
        has_difference=split in evaluation.train_minus,
    )


def _interval(interval: Interval | None) -> Markup:
    """Format the estimate and its bounds as two elements: a phone shows them on two lines."""
    if interval is None:
        return Markup("-")
    estimate, _, bounds = str(interval).partition(" ")
    shown = Markup('{} <span class="bounds">{}</span>').format(estimate, bounds)
    return shown if bounds else Markup(estimate)
