"""A sweep as tables: its points from the best down, and what the winner is worth."""

from typing import Any

import numpy as np
from rich.table import Table

from headtrain.sweep.result import Judgement, PointResult, SweepResult

MOST_ROWS = 30
"""Points shown; sweep.json has all."""


def points_table(result: SweepResult) -> Table:
    """Every point on the half that chooses."""
    choose = result.points[0].choose
    assert choose is not None, "the winner has a score"
    table = Table(
        title=f"{result.num_heads} heads at {len(result.points)} points, accuracy on the"
        f" {choose.num_problems} problems that choose: the best of many, so it flatters",
        title_justify="left",
        title_style="bold",
    )
    keys = list(dict.fromkeys(key for point in result.points for key in point.varied))
    for key in keys:  # NOTE: a value cut short would leave nothing to tell the points by.
        table.add_column(key.rpartition(".")[2], overflow="fold")
    if not keys:
        table.add_column("point")
    level = f"{result.confidence:.0%}"
    has_holdout = any(point.holdout for point in result.points)
    names = ["one head, over problems", f"all seeds, over problems ({level})", "over pairs"]
    for name in [*names, *(["held-out train problems"] if has_holdout else [])]:
        table.add_column(name, justify="right")
    for place, point in enumerate(result.points[:MOST_ROWS]):
        cells = [point.varied.get(key, "-") for key in keys] or [_name(point)]
        cells += [_of_seeds(point), _over_problems(point.choose)]
        cells.append(f"{point.choose.over_pairs:.3f}" if point.choose else "-")
        if has_holdout:
            cells.append(_over_problems(point.holdout))
        table.add_row(*cells, style=None if place else "bold")
    return table


def winner_rows(result: SweepResult) -> dict[str, Any]:
    """What the winner is worth, for a table of named values."""
    winner, report = result.points[0], result.report
    assert winner.choose is not None, "the winner has a score"
    chosen = winner.choose.over_problems.estimate
    return {
        "winner": _name(winner),
        "seeds averaged": sum(accuracy is not None for accuracy in winner.of_seeds),
        f"accuracy on the {winner.choose.num_problems} problems that chose it": chosen,
        f"accuracy on the {report.num_problems} problems that did not": str(report.over_problems),
        "the same over pairs": report.over_pairs,
        "seconds of training": result.seconds_training,
        "seconds in all": result.seconds,
    }


def _name(point: PointResult) -> str:
    return " ".join(f"{key}={value}" for key, value in point.varied.items()) or "as configured"


def _of_seeds(point: PointResult) -> str:
    """`0.701 (0.690-0.712)`: mean, lowest and highest of the seeds."""
    whole = [accuracy for accuracy in point.of_seeds if accuracy is not None]
    num_diverged = len(point.of_seeds) - len(whole)
    note = f", {num_diverged} diverged" if num_diverged else ""
    if not whole:
        return f"-{note}"
    return f"{np.mean(whole):.3f} ({min(whole):.3f}-{max(whole):.3f}){note}"


def _over_problems(judgement: Judgement | None) -> str:
    return str(judgement.over_problems) if judgement else "-"
