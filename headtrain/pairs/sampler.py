"""Draws (correct, incorrect) pairs of one problem without ever listing all combinations.

Samples that may be compared (one problem, one language, perhaps one length) are a cell. A cell
with c correct and w incorrect samples has c*w pairs, so the pairs of all cells can be numbered
without being made: cell after cell, and k = i*w + j within a cell. Drawing is two steps: how many
pairs each problem gives (its quota), then so many distinct numbers of its range, turned back into
(i, j). Memory is linear in samples plus drawn pairs, however many billion combinations there are.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints
from featurize.errors import CriticError
from headtrain.pairs.allocation import share_out, spread_uniformly
from headtrain.pairs.rng import Draws


class PairError(CriticError):
    """No pair can be drawn from the samples given."""


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """The drawn pairs, in random order; pair m is (correct[m], incorrect[m])."""

    correct: Ints
    """Index of each pair's correct sample, [pairs]."""
    incorrect: Ints
    """Index of each pair's incorrect sample, [pairs]."""
    num_problems: int
    """Problems that gave at least one pair."""
    num_possible: int
    """Pairs the samples hold, drawn or not, before any cap."""
    num_left_out: int = 0
    """Labelled samples that no pair may be made of, as the settings say."""


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Samples grouped into the cells that have both labels; cells of a problem stand together."""

    correct: Ints
    """Sample indices of the correct samples, cell after cell."""
    incorrect: Ints
    """Sample indices of the incorrect samples, cell after cell."""
    correct_starts: Ints
    """Where each cell begins in `correct`, [cells]."""
    incorrect_starts: Ints
    """Where each cell begins in `incorrect`, [cells]."""
    num_incorrect: Ints
    """Incorrect samples of each cell, [cells]."""
    pair_ends: Ints
    """Pairs of this cell and of all before it, [cells]."""
    pairs_of_problems: Ints
    """Pairs of each problem, [problems]."""
    weights: Ints
    """Weight of each problem, [problems]."""

    def to_samples(self, pairs: Ints) -> tuple[Ints, Ints]:
        """The correct and the incorrect sample of pairs given by their numbers."""
        cells = np.searchsorted(self.pair_ends, pairs, side="right")
        starts = np.append(0, self.pair_ends)[cells]
        i, j = np.divmod(pairs - starts, self.num_incorrect[cells])
        return (
            self.correct[self.correct_starts[cells] + i],
            self.incorrect[self.incorrect_starts[cells] + j],
        )


def sample_pairs(
    problem_codes: npt.NDArray[np.integer],
    is_correct: npt.NDArray[np.bool_],
    n_pairs: int,
    *,
    seed: int,
    strategy: Literal["balanced", "uniform"] = "balanced",
    max_pairs_per_problem: int | None = None,
    classes: npt.NDArray[np.integer] | None = None,
    weights: npt.NDArray[np.integer] | None = None,
) -> PairPlan:
    """Draw n_pairs distinct pairs, or all there are; the same for the same arrays and seed.

    `uniform` makes every combination equally likely, so that a few huge problems dominate;
    `balanced` gives every problem the same number until its pairs or the cap run out. With weights
    a problem's share (`balanced`) or a combination's chance (`uniform`) is in proportion to them.
    All arrays are [samples]: equal problem_codes are one problem, within which only samples of
    equal `classes` are compared; a problem weighs what its heaviest sample does.
    """
    arrays = (problem_codes, is_correct, classes, weights)
    if len({a.shape for a in arrays if a is not None}) > 1 or problem_codes.ndim != 1:
        shapes = ", ".join(str(a.shape) for a in arrays if a is not None)
        raise PairError(f"the columns of the samples, {shapes}, must be vectors of one length")
    if n_pairs < 1 or (max_pairs_per_problem is not None and max_pairs_per_problem < 1):
        raise PairError(
            f"n_pairs {n_pairs} and max_pairs_per_problem {max_pairs_per_problem} must be positive"
        )
    if weights is not None and weights.min(initial=1) < 1:
        raise PairError(f"a weight is {weights.min()}; weights must be positive")
    cells = _group(problem_codes, is_correct.astype(bool), classes, weights)
    limits = cells.pairs_of_problems
    if max_pairs_per_problem is not None:
        limits = np.minimum(limits, max_pairs_per_problem)
    draws = Draws(seed)
    draw_quotas = share_out if strategy == "balanced" else spread_uniformly
    quotas = draw_quotas(limits, min(n_pairs, int(limits.sum())), cells.weights, draws)
    starts = np.cumsum(cells.pairs_of_problems) - cells.pairs_of_problems
    pairs = draws.distinct(cells.pairs_of_problems, quotas) + np.repeat(starts, quotas)
    correct, incorrect = cells.to_samples(pairs[draws.order(len(pairs))])
    return PairPlan(
        correct=correct,
        incorrect=incorrect,
        num_problems=int(np.count_nonzero(quotas)),
        num_possible=int(cells.pairs_of_problems.sum()),
    )


def _group(
    problems: npt.NDArray[np.integer],
    is_correct: npt.NDArray[np.bool_],
    classes: npt.NDArray[np.integer] | None,
    weights: npt.NDArray[np.integer] | None,
) -> _Cells:
    order = np.lexsort((problems,) if classes is None else (classes, problems))
    starts_problem = _changes(problems[order])
    starts_cell = starts_problem if classes is None else starts_problem | _changes(classes[order])
    cells, labels = np.cumsum(starts_cell) - 1, is_correct[order]  # [samples], sorted
    num_correct = np.bincount(cells[labels], minlength=int(starts_cell.sum()))
    num_incorrect = np.bincount(cells[~labels], minlength=len(num_correct))
    has_both = (num_correct > 0) & (num_incorrect > 0)
    if not has_both.any():
        within = "" if classes is None else ", language and (if matched) length"
        raise PairError(
            f"none of the {int(starts_problem.sum())} problems has both a correct and an incorrect "
            f"sample ({int(labels.sum())} correct, {int((~labels).sum())} incorrect in all); "
            f"a pair needs one of each of the same problem{within}"
        )
    pairs = (num_correct * num_incorrect)[has_both]
    owners = (np.cumsum(starts_problem) - 1)[starts_cell][has_both]  # problem of each cell
    first_cells = np.flatnonzero(_changes(owners))
    heaviest = np.ones(len(first_cells), np.int64)
    if weights is not None:
        per_problem = np.maximum.reduceat(weights[order], np.flatnonzero(starts_problem))
        heaviest = per_problem[owners[first_cells]].astype(np.int64)
    return _Cells(
        correct=order[labels],
        incorrect=order[~labels],
        correct_starts=(np.cumsum(num_correct) - num_correct)[has_both],
        incorrect_starts=(np.cumsum(num_incorrect) - num_incorrect)[has_both],
        num_incorrect=num_incorrect[has_both],
        pair_ends=np.cumsum(pairs),
        pairs_of_problems=np.add.reduceat(pairs, first_cells),
        weights=heaviest,
    )


def _changes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Where a sorted vector begins with a new value, [n]; the first always does."""
    return np.append(np.ones(min(1, len(values)), bool), values[1:] != values[:-1])
