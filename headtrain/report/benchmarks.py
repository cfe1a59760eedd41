"""Tables of the metrics of public benchmarks."""

from typing import Any

from headtrain.evaluation.benchmarks import StyleAccuracy, SubsetAccuracy, SubsetResults
from headtrain.evaluation.texts import to_visible

SUBSET_COLUMNS = ("subset", "pairs", "ties", "accuracy (a tie is wrong)")


def subset_rows(results: SubsetResults) -> list[list[Any]]:
    """Get a row per subset, and both means if there are several."""
    rows = [_row(name, one) for name, one in results.subsets.items()]
    if len(rows) > 1:
        rows.append(_row("all pairs", results.all_pairs))
        rows.append(["mean over subsets", None, None, results.mean_over_subsets])
    return rows


def style_rows(styles: StyleAccuracy) -> dict[str, Any]:
    """Get the rows of the table by style."""
    return {
        "prompts": styles.num_prompts,
        "easy (correct answer fancier)": styles.easy,
        "normal (same style)": styles.normal,
        "hard (incorrect answer fancier)": styles.hard,
        "average": styles.average,
    }


def _row(name: str, one: SubsetAccuracy) -> list[Any]:
    return [to_visible(name), one.num_pairs, one.num_ties, one.accuracy]
