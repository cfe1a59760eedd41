"""A benchmark's own numbers as rows, for the terminal and the page."""

from collections.abc import Iterator
from typing import Any

from headtrain.evaluation.benchmarks import (
    ASPECT_AND_LANGUAGE,
    QUANTITIES,
    BenchmarkResults,
    Score,
    StyleAccuracy,
    SubsetAccuracy,
    SubsetResults,
)
from headtrain.evaluation.texts import to_visible

SCORE_COLUMNS = ("number", "of", "rows", "value")
"""Of the rows of `score_rows`."""

PageTable = tuple[str, tuple[str, ...], list[list[Any]]]
"""Title, columns and rows."""


SUBSET_COLUMNS = ("subset", "pairs", "ties", "accuracy (a tie is wrong)")
"""Of the rows of `subset_rows`."""


def subset_rows(results: SubsetResults) -> list[list[Any]]:
    """Get a row per subset, and both means if there are several."""
    rows = [_subset_row(name, one) for name, one in results.subsets.items()]
    if len(rows) > 1:
        rows.append(_subset_row("all pairs", results.all_pairs))
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


def _subset_row(name: str, one: SubsetAccuracy) -> list[Any]:
    return [to_visible(name), one.num_pairs, one.num_ties, one.accuracy]


def score_rows(results: BenchmarkResults, *, detailed: bool = True) -> list[list[Any]]:
    """Get a row per score; aspects crossed with languages only in detail."""
    return [
        _row(score, detailed=detailed)
        for score in results.scores
        if detailed or score.by != ASPECT_AND_LANGUAGE
    ]


def _row(score: Score, *, detailed: bool) -> list[Any]:
    title = QUANTITIES[score.quantity].title
    by = "" if score.by in ("", score.quantity, ASPECT_AND_LANGUAGE) else f"{score.by} "
    group = f"{by}{to_visible(score.group)}" if score.group else "all"
    value = str(score.value) if detailed else f"{score.value.estimate:.3f}"
    return [title, group, score.num_rows, value]


def page_tables(
    results: BenchmarkResults,
) -> Iterator[tuple[str, tuple[str, ...], list[list[Any]]]]:
    """Yield the tables of the page."""
    yield "by subset", SUBSET_COLUMNS, _shown(subset_rows(results.subsets))
    if results.styles is not None:
        yield "by style", ("", "value"), _shown([*map(list, style_rows(results.styles).items())])
    if results.scores:
        yield "scores", SCORE_COLUMNS, score_rows(results)


def _shown(rows: list[list[Any]]) -> list[list[Any]]:
    """Format numbers as the terminal does."""
    return [[_cell(value) for value in row] for row in rows]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else value
