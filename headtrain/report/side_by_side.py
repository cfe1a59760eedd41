"""Several heads on one page: accuracies, differences, and the code where they disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from featurize.data.records import Sample
from featurize.io.figures import FAINT, HEAD, INK, drawing, to_svg
from featurize.io.files import atomic_path
from headtrain.evaluation.comparison import LETTERS, Disagreement, SideBySide
from headtrain.evaluation.numbers import ACCURACY, OVER_PAIRS, OVER_PROBLEMS
from headtrain.evaluation.texts import SplitTexts
from headtrain.report.figures import draw_whiskers
from headtrain.report.sweep_page import SweepOnPage
from headtrain.report.template import render


@dataclass(frozen=True, kw_only=True)
class HeadOnPage:
    """What a page says of a head besides its accuracy."""

    path: str
    facts: Mapping[str, str]
    """Backbone, features, step and so on."""


@dataclass(frozen=True, kw_only=True)
class ShownDisagreement:
    """A disagreement with its texts."""

    pair: Disagreement
    correct: Sample
    incorrect: Sample


@dataclass(frozen=True, kw_only=True)
class SideBySidePage:
    """All that the page shows."""

    title: str
    found: SideBySide
    heads: Mapping[str, HeadOnPage]
    """By letter."""
    texts: SplitTexts
    confidence: float
    num_left_out: int
    sweeps: Mapping[str, SweepOnPage] = field(default_factory=dict)
    """The sweep that a head won, by its letter."""

    def write(self, path: Path) -> None:
        """Write the page."""
        content = render(
            "side_by_side.html.j2",
            title=self.title,
            page=self,
            first=LETTERS[0],
            quantities=ACCURACY,
            over_problems=OVER_PROBLEMS.key,
            level=f"{self.confidence:.0%}",
            picture=self._draw(),
            verdict=compare_with_first(self.found),
            disagreements=self._disagreements(),
        )
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")

    def _disagreements(self) -> dict[str, dict[str, list[ShownDisagreement]]]:
        """Where the first head and each other one disagree, with the code; empty without texts."""
        if not self.texts.are_there:
            return {}
        return {
            name: {
                f"{LETTERS[0]} right, {name} wrong": self._read(one.wins),
                f"{name} right, {LETTERS[0]} wrong": self._read(one.losses),
            }
            for name, one in self.found.comparisons.items()
        }

    def _read(self, pairs: Sequence[Disagreement]) -> list[ShownDisagreement]:
        places = [place for pair in pairs for place in (pair.correct, pair.incorrect)]
        samples = self.texts.read(np.array(places, np.int64)) if places else []
        sides = zip(pairs, samples[::2], samples[1::2], strict=True)
        return [ShownDisagreement(pair=a, correct=b, incorrect=c) for a, b, c in sides]

    def _draw(self) -> str:
        names = list(self.found.heads)[::-1]
        with drawing(height=0.9 + 0.32 * len(names)) as (figure, axes):
            accuracies = [self.found.heads[name][OVER_PROBLEMS.key] for name in names]
            colours = [HEAD if name == LETTERS[0] else INK for name in names]
            draw_whiskers(axes, accuracies, colours)
            axes.axvline(0.5, color=FAINT, linestyle=":")
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(-0.5, len(names) - 0.5)
            axes.set_xlabel("accuracy, mean over problems")
            return to_svg(figure, "heads")


def compare_with_first(found: SideBySide) -> str:
    """Say which heads differ from the first by more than chance, over problems."""
    first = LETTERS[0]
    others = {
        name: of_head[first][OVER_PROBLEMS.key]
        for name, of_head in found.differences.items()
        if first in of_head
    }
    if not others:
        return f"One head: accuracy {found.heads[first][OVER_PROBLEMS.key]} over problems."
    said = []
    for name, one in others.items():
        if one.low is not None and one.high is not None and (one.low > 0 or one.high < 0):
            kind = "better" if one.estimate > 0 else "worse"
            said.append(f"{name} is {kind} than {first} by {abs(one.estimate):.3f}")
    open_ = [name for name in others if not any(text.startswith(f"{name} ") for text in said)]
    if open_:
        verb = "is" if len(open_) == 1 else "are"
        said.append(f"{_listed(open_)} {verb} not shown to differ from {first}")
    return "; ".join(said) + " (accuracy over problems, paired)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def side_by_side_table(found: SideBySide, split: str, confidence: float) -> Table:
    """The heads with their accuracy, and their difference to the first."""
    table = Table(
        title=f"{split}: {found.num_pairs:,} pairs of {found.num_problems:,} problems",
        title_justify="left",
        title_style="bold",
    )
    first = LETTERS[0]
    table.add_column("")
    for name in (f"by problem ({confidence:.0%})", f"minus {first}", "by pair"):
        table.add_column(name, justify="right")
    for name, accuracy in found.heads.items():
        difference = found.differences[name].get(first)
        table.add_row(
            name,
            str(accuracy[OVER_PROBLEMS.key]),
            "" if difference is None else str(difference[OVER_PROBLEMS.key]),
            f"{accuracy[OVER_PAIRS.key].estimate:.3f}",
        )
    return table
