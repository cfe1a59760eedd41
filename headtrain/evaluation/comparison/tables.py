"""A comparison on a terminal: numbers as a table, telling pairs with their code."""

from rich.table import Table
from rich.text import Text

from featurize.data.records import Sample
from headtrain.evaluation.comparison.compare import FIRST, SECOND, Comparison
from headtrain.evaluation.comparison.telling import TellingPair
from headtrain.evaluation.samples.visible import to_visible


def comparison_table(comparison: Comparison, split: str, confidence: float) -> Table:
    """Accuracies of both heads and their difference."""
    table = Table(
        title=f"{split}: {comparison.num_pairs:,} pairs of {comparison.num_problems:,} problems",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for name in (f"accuracy over pairs ({confidence:.0%})", f"over problems ({confidence:.0%})"):
        table.add_column(name, justify="right")
    rows = {**comparison.heads, f"{FIRST} - {SECOND}": comparison.difference}
    for name, found in rows.items():
        table.add_row(
            name,
            str(found.accuracy_over_pairs),
            str(found.accuracy_over_problems),
        )
    return table


def comparison_lines(comparison: Comparison) -> list[str]:
    """The rest of the numbers, a sentence each."""
    test = comparison.mcnemar
    return [
        f"pairs ranked rightly by both {comparison.num_both_right:,}, by {FIRST} alone "
        f"{test.only_first:,}, by {SECOND} alone {test.only_second:,}, by neither "
        f"{comparison.num_both_wrong:,}",
        f"McNemar over pairs: p = {test.p_value:.3g} (takes pairs of a problem for independent; "
        "go by the interval over problems)",
        f"problems: {FIRST} ahead in {comparison.problems_won:,}, {SECOND} in "
        f"{comparison.problems_lost:,}",
    ]


def telling_text(title: str, pair: TellingPair, correct: Sample, incorrect: Sample) -> Text:
    """One telling pair with its code; nothing in the code reaches the terminal as a command."""
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
