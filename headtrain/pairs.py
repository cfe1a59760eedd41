"""Draws (correct, incorrect) pairs of one problem without ever listing all combinations.

A problem with c correct and w incorrect samples has c*w pairs, numbered k = i*w + j. Drawing is
therefore two steps: how many pairs each problem gives (its quota), then so many distinct numbers
below c*w, turned back into (i, j). Memory is linear in samples plus drawn pairs, however many
billion combinations the data holds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class PairError(ValueError):
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


@dataclass(frozen=True, kw_only=True)
class _Problems:
    """Samples grouped by the problems that have both labels."""

    correct_rows: Ints
    """Sample indices of the correct samples, problem after problem."""
    incorrect_rows: Ints
    """Sample indices of the incorrect samples, problem after problem."""
    correct_starts: Ints
    """Where each problem begins in correct_rows, [problems]."""
    incorrect_starts: Ints
    """Where each problem begins in incorrect_rows, [problems]."""
    num_incorrect: Ints
    """Incorrect samples of each problem, [problems]."""
    possible: Ints
    """Pairs of each problem, [problems]."""


def sample_pairs(
    problem_codes: npt.NDArray[np.integer],
    is_correct: npt.NDArray[np.bool_],
    n_pairs: int,
    *,
    seed: int,
    strategy: Literal["balanced", "uniform"] = "balanced",
    max_pairs_per_problem: int | None = None,
) -> PairPlan:
    """Draw n_pairs distinct pairs, or all there are; the same for the same arrays and seed.

    `uniform` makes every combination equally likely, so that a few huge problems dominate;
    `balanced` gives every problem the same number until its pairs or the cap run out.
    problem_codes and is_correct are [samples]; equal codes are one problem.
    """
    if problem_codes.shape != is_correct.shape or problem_codes.ndim != 1:
        raise PairError(
            f"problem_codes {problem_codes.shape} and is_correct {is_correct.shape} must be two "
            "vectors of one length"
        )
    if n_pairs < 1 or (max_pairs_per_problem is not None and max_pairs_per_problem < 1):
        raise PairError(
            f"n_pairs {n_pairs} and max_pairs_per_problem {max_pairs_per_problem} must be positive"
        )
    problems = _group_by_problem(problem_codes, is_correct.astype(bool))
    limits = problems.possible
    if max_pairs_per_problem is not None:
        limits = np.minimum(limits, max_pairs_per_problem)
    rng = np.random.Generator(np.random.PCG64(seed))
    draw_quotas = fill_evenly if strategy == "balanced" else _spread_uniformly
    quotas = draw_quotas(limits, min(n_pairs, int(limits.sum())), rng)
    correct, incorrect = _draw_within_problems(problems, quotas, rng)
    order = rng.permutation(len(correct))
    return PairPlan(
        correct=correct[order],
        incorrect=incorrect[order],
        num_problems=int(np.count_nonzero(quotas)),
        num_possible=int(problems.possible.sum()),
    )


def _group_by_problem(
    problem_codes: npt.NDArray[np.integer], is_correct: npt.NDArray[np.bool_]
) -> _Problems:
    names, codes = np.unique(problem_codes, return_inverse=True)
    num_correct = np.bincount(codes[is_correct], minlength=len(names))
    num_incorrect = np.bincount(codes[~is_correct], minlength=len(names))
    has_both = (num_correct > 0) & (num_incorrect > 0)
    if not has_both.any():
        raise PairError(
            f"none of the {len(names)} problems has both a correct and an incorrect sample "
            f"({int(is_correct.sum())} correct, {int((~is_correct).sum())} incorrect in all); "
            "a pair needs one of each of the same problem"
        )

    def rows_and_starts(wanted: npt.NDArray[np.bool_], counts: Ints) -> tuple[Ints, Ints]:
        rows = np.flatnonzero(wanted)
        rows = rows[np.argsort(codes[rows], kind="stable")]
        return rows, (np.cumsum(counts) - counts)[has_both]

    correct_rows, correct_starts = rows_and_starts(is_correct, num_correct)
    incorrect_rows, incorrect_starts = rows_and_starts(~is_correct, num_incorrect)
    return _Problems(
        correct_rows=correct_rows,
        incorrect_rows=incorrect_rows,
        correct_starts=correct_starts,
        incorrect_starts=incorrect_starts,
        num_incorrect=num_incorrect[has_both],
        possible=(num_correct * num_incorrect)[has_both],
    )


def fill_evenly(limits: Ints, total: int, rng: np.random.Generator) -> Ints:
    """Share total (at most limits.sum()) evenly: everyone gets the same until their limit.

    Like water over an uneven floor: the level is the highest whole number whose volume fits;
    the few units left over go to random members that still have room.
    """
    low, high = 0, int(limits.max())
    while low < high:
        level = (low + high + 1) // 2
        if int(np.minimum(limits, level).sum()) <= total:
            low = level
        else:
            high = level - 1
    quotas = np.minimum(limits, low)
    left_over = total - int(quotas.sum())
    if left_over:
        with_room = np.flatnonzero(limits > low)
        quotas[rng.choice(with_room, left_over, replace=False)] += 1
    return quotas


def _spread_uniformly(limits: Ints, total: int, rng: np.random.Generator) -> Ints:
    if total == int(limits.sum()):
        return limits
    # NOTE: not Generator.multivariate_hypergeometric, which refuses 1e9 combinations and more.
    drawn = rng.choice(int(limits.sum()), total, replace=False, shuffle=False)
    owners = np.searchsorted(np.cumsum(limits), drawn, side="right")
    return np.bincount(owners, minlength=len(limits))


def _draw_within_problems(
    problems: _Problems, quotas: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    drawing = np.flatnonzero(quotas)
    # Generator.choice runs Floyd's algorithm here, in memory of the quota, not of the range.
    numbers = np.concatenate(
        [
            rng.choice(int(problems.possible[problem]), int(quotas[problem]), replace=False)
            for problem in drawing
        ]
    )
    owners = np.repeat(drawing, quotas[drawing])
    i, j = np.divmod(numbers, problems.num_incorrect[owners])
    return (
        problems.correct_rows[problems.correct_starts[owners] + i],
        problems.incorrect_rows[problems.incorrect_starts[owners] + j],
    )
