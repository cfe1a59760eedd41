"""A comparison on the terminal: accuracies as a table, disagreements with their code."""

from rich.table import Table
from rich.text import Text

from featurize.data.records import Sample
from headtrain.evaluation.comparison import FIRST, SECOND, Comparison, Disagreement
from headtrain.evaluation.numbers import ACCURACY
from headtrain.evaluation.texts import to_visible


def comparison_table(comparison: Comparison, split: str, confidence: float) -> Table:
    """Accuracies of both heads and their difference."""
    table = Table(
        title=f"{split}: {comparison.num_pairs:,} pairs of {comparison.num_problems:,} problems",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for quantity in ACCURACY:
        table.add_column(f"{quantity.title} ({confidence:.0%})", justify="right")
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
