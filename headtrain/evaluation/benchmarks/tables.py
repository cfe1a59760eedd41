"""Results of other people's tests as tables."""

from typing import Any

from headtrain.evaluation.benchmarks.styles import StyleAccuracy
from headtrain.evaluation.benchmarks.subsets import SubsetAccuracy, SubsetResults
from headtrain.evaluation.samples.visible import to_visible

SUBSET_COLUMNS = ("subset", "pairs", "ties", "accuracy (a tie is wrong)")


def subset_rows(results: SubsetResults) -> list[list[Any]]:
    """A row a subset, then both means where there are several."""
    rows = [_row(name, one) for name, one in results.subsets.items()]
    if len(rows) > 1:
        rows.append(_row("all pairs", results.all_pairs))
        rows.append(["mean over subsets", None, None, results.mean_over_subsets])
    return rows


def style_rows(styles: StyleAccuracy) -> dict[str, Any]:
    """The lines of a table."""
    return {
        "prompts": styles.num_prompts,
        "easy (right answer fancier)": styles.easy,
        "normal (same style)": styles.normal,
        "hard (wrong answer fancier)": styles.hard,
        "average": styles.average,
    }


def _row(name: str, one: SubsetAccuracy) -> list[Any]:
    # The names are other people's text: nothing that moves a cursor.
    return [to_visible(name), one.num_pairs, one.num_ties, one.accuracy]
