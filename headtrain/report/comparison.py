"""Heads compared, on the terminal and on a page: accuracies, differences, disagreements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from featurize.data.records import Sample
from featurize.io.figures import to_svg
from featurize.io.files import atomic_path
from headtrain.evaluation.comparison import (
    FIRST,
    LETTERS,
    SECOND,
    Comparison,
    Disagreement,
    SideBySide,
)
from headtrain.evaluation.numbers import ACCURACY, OVER_PAIRS, OVER_PROBLEMS
from headtrain.evaluation.texts import SplitTexts, to_visible
from headtrain.report.figures import draw_judges
from headtrain.report.sweep import SweepOnPage
from headtrain.report.tables import make_table
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
        accuracies = {name: one[OVER_PROBLEMS.key] for name, one in self.found.heads.items()}
        content = render(
            "side_by_side.html.j2",
            title=self.title,
            page=self,
            first=LETTERS[0],
            quantities=ACCURACY,
            over_problems=OVER_PROBLEMS.key,
            level=f"{self.confidence:.0%}",
            picture=to_svg(draw_judges(accuracies), "heads"),
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
    first = LETTERS[0]
    table = make_table(
        f"{split}: {found.num_pairs:,} pairs of {found.num_problems:,} problems",
        "",
        *(f"over problems ({confidence:.0%})", f"minus {first}", "over pairs"),
    )
    for name, accuracy in found.heads.items():
        difference = found.differences[name].get(first)
        table.add_row(
            name,
            str(accuracy[OVER_PROBLEMS.key]),
            "" if difference is None else str(difference[OVER_PROBLEMS.key]),
            f"{accuracy[OVER_PAIRS.key].estimate:.3f}",
        )
    return table


def comparison_table(comparison: Comparison, split: str, confidence: float) -> Table:
    """Accuracies of both heads and their difference."""
    table = make_table(
        f"{split}: {comparison.num_pairs:,} pairs of {comparison.num_problems:,} problems",
        "",
        *(f"{quantity.title} ({confidence:.0%})" for quantity in ACCURACY),
    )
    rows = {**comparison.heads, f"{FIRST} - {SECOND}": comparison.difference}
    for name, found in rows.items():
        table.add_row(name, *(str(found[quantity.key]) for quantity in ACCURACY))
    return table


def comparison_lines(comparison: Comparison) -> list[str]:
    """The other numbers, a line each."""
    test = comparison.mcnemar
    return [
        f"pairs ordered correctly by both {comparison.num_both_right:,}, by {FIRST} only "
        f"{test.only_first:,}, by {SECOND} only {test.only_second:,}, by neither "
        f"{comparison.num_both_wrong:,}",
        f"McNemar over pairs: p = {test.p_value:.3g} (treats pairs of a problem as independent; "
        "prefer the interval over problems)",
        f"problems: {FIRST} better in {comparison.problems_won:,}, {SECOND} in "
        f"{comparison.problems_lost:,}",
    ]


def disagreement_text(title: str, pair: Disagreement, correct: Sample, incorrect: Sample) -> Text:
    """One disagreement with its code; nothing in the code reaches the terminal as a command."""
    text = Text()
    text.append(
        f"\n{to_visible(title)}: {_one_line(correct.problem_id)} "
        f"(margins: {FIRST} {pair.first_margin:+.2f}, {SECOND} {pair.second_margin:+.2f})\n",
        style="bold",
    )
    text.append(f"{_one_line(correct.instruction)[:200]}\n", style="dim")
    for label, sample, style in (("correct", correct, "green"), ("incorrect", incorrect, "red")):
        text.append(f"{label}:\n", style=style)
        text.append(f"{to_visible(sample.output).rstrip()}\n")
    return text


def _one_line(text: str) -> str:
    return " ".join(to_visible(text).split())
