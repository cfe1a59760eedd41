"""Samples (correct, incorrect) pairs of one problem without listing all combinations.

Samples that may be compared (one problem, one language, optionally one length) form a cell. A cell
with c correct and w incorrect samples has c*w pairs, so the pairs of all cells can be numbered:
cell after cell, and k = i*w + j within a cell. Sampling has two steps: allocate the number of pairs
to problems, then draw that many distinct numbers for each problem and convert them to (i, j).
Memory is linear in the number of samples and drawn pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurize.arrays import Bools, Ints
from featurize.errors import CriticError
from headtrain.metrics.groups import find_equal_pairs, group_codes
from headtrain.pairs.rng import PortableRng


class PairError(CriticError):
    """No pair can be drawn from the given samples."""


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """The drawn pairs, in random order; pair m is (correct[m], incorrect[m])."""

    correct: Ints
    """Index of each pair's correct sample, [pairs]."""
    incorrect: Ints
    """Index of each pair's incorrect sample, [pairs]."""
    num_problems: int
    """Problems with at least one pair."""
    num_possible: int
    """Number of pairs in the samples, drawn or not, before any cap."""
    num_left_out: int = 0
    """Labelled samples that the settings exclude from pairs."""
    num_equal: int = 0
    """Pairs that are left out because both sides have the same tokens."""


def sample_pairs(
    problem_codes: npt.NDArray[np.integer],
    is_correct: Bools,
    n_pairs: int,
    *,
    seed: int,
    strategy: Literal["balanced", "uniform"] = "balanced",
    max_pairs_per_problem: int | None = None,
    classes: npt.NDArray[np.integer] | None = None,
    weights: npt.NDArray[np.integer] | None = None,
    outputs: npt.NDArray[np.integer] | None = None,
    sources: npt.NDArray[np.integer] | None = None,
) -> PairPlan:
    """Draw n_pairs distinct pairs, or all if there are fewer; deterministic for a seed.

    `uniform` makes every combination equally likely, so a few huge problems dominate; `balanced`
    gives every problem the same number of pairs until its pairs or the cap run out. Weights (>= 1)
    scale a problem's share (`balanced`) or a combination's probability (`uniform`). All arrays are
    [samples]: only samples with equal problem_codes and equal `classes` are compared; the weight of
    a problem is the largest weight of its samples. Samples with equal `outputs` have the same
    tokens; they are no pair. With `sources` every source gets the same number of pairs until its
    pairs run out; the source of a problem is that of its first sample.

    Raises:
        PairError: there is no pair, the arrays are not vectors of one length, or a number of pairs
            or a weight is not positive.
    """
    _check_shapes(problem_codes, is_correct, classes, weights, outputs, sources)
    least = {
        "n_pairs": n_pairs,
        "max_pairs_per_problem": max_pairs_per_problem,
        "a weight": None if weights is None else weights.min(initial=1),
    }
    for name, number in least.items():
        if number is not None and number < 1:
            raise PairError(f"{name} is {number}; it must be at least 1")
    cells = _group(problem_codes, is_correct.astype(bool), classes, weights, outputs)
    limits = cells.pairs_of_problems
    if max_pairs_per_problem is not None:
        limits = np.minimum(limits, max_pairs_per_problem)
    rng = PortableRng(seed)
    allocate = allocate_balanced if strategy == "balanced" else allocate_uniform
    total = min(n_pairs, int(limits.sum()))
    if sources is None:
        counts = allocate(limits, total, cells.weights, rng)
    else:
        owners = sources[cells.first_samples]
        counts = _allocate_by_source(limits, total, cells.weights, rng, owners, allocate)
    starts = np.cumsum(cells.pairs_of_problems) - cells.pairs_of_problems
    pairs = rng.subsets(cells.pairs_of_problems, counts) + np.repeat(starts, counts)
    correct, incorrect = cells.to_samples(pairs[rng.permutation(len(pairs))])
    return PairPlan(
        correct=correct,
        incorrect=incorrect,
        num_problems=int(np.count_nonzero(counts)),
        num_possible=int(cells.pairs_of_problems.sum()),
        num_equal=cells.num_equal,
    )


def _check_shapes(*arrays: npt.NDArray[np.generic] | None) -> None:
    """Raise PairError unless the arrays are vectors of one length."""
    shapes = [array.shape for array in arrays if array is not None]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        raise PairError(
            f"the columns of the samples are {listed}; give vectors of one length, a value a sample"
        )


def _allocate_by_source(
    limits: Ints,
    total: int,
    weights: Ints,
    rng: PortableRng,
    sources: npt.NDArray[np.integer],
    allocate: Callable[[Ints, int, Ints, PortableRng], Ints],
) -> Ints:
    """Split total evenly over the sources of problems, and each part over its problems."""
    _, codes = np.unique(sources, return_inverse=True)
    available = np.bincount(codes, weights=limits).astype(np.int64)
    parts = allocate_balanced(available, total, np.ones_like(available), rng)
    counts = np.zeros_like(limits)
    for code, part in enumerate(parts):
        own = np.flatnonzero(codes == code)
        counts[own] = allocate(limits[own], int(part), weights[own], rng)
    return counts


def allocate_balanced(limits: Ints, total: int, weights: Ints, rng: PortableRng) -> Ints:
    """Split total (at most limits.sum()) in proportion to weights, up to each member's limit.

    A member whose share exceeds its limit gets the limit, and the rest is split among the others.
    The remainder of the integer division is drawn such that the expected count of a member is its
    share. limits and weights are [members], positive.

    NOTE: integers only; the last digit of a float differs between machines.
    """
    counts = np.zeros_like(limits)
    rest = np.arange(len(limits))  # members below their limit
    left = total
    while len(rest):
        weighted = weights[rest] * left  # a share is this divided by the sum of weights
        divisor = weights[rest].sum()
        counts[rest] = weighted // divisor
        is_full = limits[rest] <= counts[rest]
        if not is_full.any():
            counts[rest] += _round_randomly(weighted % divisor, divisor, rng)
            break
        full, rest = rest[is_full], rest[~is_full]
        counts[full] = limits[full]
        left -= limits[full].sum()
    return counts


def allocate_uniform(limits: Ints, total: int, weights: Ints, rng: PortableRng) -> Ints:
    """Draw total units of all members' limits without replacement; return each member's count.

    Units of members with equal weight are equally likely, and twice as likely as units of half the
    weight, until the units of a weight run out.
    """
    distinct_weights, classes = np.unique(weights, return_inverse=True)
    units = [int(limits[classes == number].sum()) for number in range(len(distinct_weights))]
    # NOTE: Python integers: billions of units times their weight exceed 64 bits.
    mass = [int(weight) * size for weight, size in zip(distinct_weights, units, strict=True)]
    shares = allocate_balanced(np.array(units, object), total, np.array(mass, object), rng)
    counts = np.zeros_like(limits)
    for number, share in enumerate(shares):
        members = np.flatnonzero(classes == number)
        drawn = rng.subsets(np.array([units[number]]), np.array([int(share)]))
        owners = np.searchsorted(np.cumsum(limits[members]), drawn, side="right")
        counts[members] = np.bincount(owners, minlength=len(members))
    return counts


def _round_randomly(remainders: Ints, divisor: int, rng: PortableRng) -> Bools:
    """Choose members with probability remainder / divisor; their number is the rounded sum.

    Systematic sampling: the remainders are laid end to end in random order, and one is chosen if it
    covers a multiple of the divisor, counted from a random start.
    """
    order = rng.permutation(len(remainders))
    ends = np.cumsum(remainders[order]) + rng.integers(np.array([divisor]))[0]
    is_chosen = np.zeros(len(remainders), bool)
    is_chosen[order] = ends // divisor > (ends - remainders[order]) // divisor
    return is_chosen


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Samples grouped into the cells that have both labels; the cells of a problem are adjacent."""

    correct: Ints
    """Indices of the correct samples, cell after cell."""
    incorrect: Ints
    """Indices of the incorrect samples, cell after cell."""
    correct_starts: Ints
    """Start of each cell in `correct`, [cells]."""
    incorrect_starts: Ints
    """Start of each cell in `incorrect`, [cells]."""
    num_incorrect: Ints
    """Incorrect samples of each cell, [cells]."""
    pair_ends: Ints
    """Number of pairs of this cell and all before it, equal ones among them, [cells]."""
    equal: Ints
    """Numbers of the pairs with the same tokens on both sides, ascending; they are skipped."""
    num_equal: int
    """Number of such pairs, also in cells that have no other."""
    pairs_of_problems: Ints
    """Number of pairs of each problem without the equal ones, [problems]."""
    weights: Ints
    """Weight of each problem, [problems]."""
    first_samples: Ints
    """Index of the first sample of each problem, [problems]."""

    def to_samples(self, pairs: Ints) -> tuple[Ints, Ints]:
        """Convert numbers of pairs that are not equal to the indices of their samples."""
        # Of the pairs before equal pair m, equal[m] - m are not equal themselves.
        skipped = self.equal - np.arange(len(self.equal))
        pairs = pairs + np.searchsorted(skipped, pairs, side="right")
        cells = np.searchsorted(self.pair_ends, pairs, side="right")
        starts = np.append(0, self.pair_ends)[cells]
        i, j = np.divmod(pairs - starts, self.num_incorrect[cells])
        return (
            self.correct[self.correct_starts[cells] + i],
            self.incorrect[self.incorrect_starts[cells] + j],
        )


def _group(
    problems: npt.NDArray[np.integer],
    is_correct: Bools,
    classes: npt.NDArray[np.integer] | None,
    weights: npt.NDArray[np.integer] | None,
    outputs: npt.NDArray[np.integer] | None,
) -> _Cells:
    order = np.lexsort((problems,) if classes is None else (classes, problems))
    starts_problem = _starts_run(problems[order])
    starts_cell = (
        starts_problem if classes is None else starts_problem | _starts_run(classes[order])
    )
    cells, labels = np.cumsum(starts_cell) - 1, is_correct[order]  # [samples], sorted
    num_correct = np.bincount(cells[labels], minlength=int(starts_cell.sum()))
    num_incorrect = np.bincount(cells[~labels], minlength=len(num_correct))
    equal = np.empty((0, 2), np.int64)  # places among the sorted samples
    if outputs is not None:
        codes = group_codes(cells, outputs[order].astype(np.int64))
        equal = find_equal_pairs(codes, labels)
    num_equal = np.bincount(cells[equal[:, 0]], minlength=len(num_correct))
    sizes = num_correct * num_incorrect
    is_kept = sizes > num_equal
    if not is_kept.any():
        raise _no_pair(problems, is_correct, classes, len(equal))
    owners = (np.cumsum(starts_problem) - 1)[starts_cell][is_kept]  # problem of each cell
    first_cells = np.flatnonzero(_starts_run(owners))
    heaviest = np.ones(len(first_cells), np.int64)
    if weights is not None:
        per_problem = np.maximum.reduceat(weights[order], np.flatnonzero(starts_problem))
        heaviest = per_problem[owners[first_cells]].astype(np.int64)
    pairs = (sizes - num_equal)[is_kept]
    return _Cells(
        correct=order[labels],
        incorrect=order[~labels],
        correct_starts=(np.cumsum(num_correct) - num_correct)[is_kept],
        incorrect_starts=(np.cumsum(num_incorrect) - num_incorrect)[is_kept],
        num_incorrect=num_incorrect[is_kept],
        pair_ends=np.cumsum(sizes[is_kept]),
        equal=_number_equal(equal[is_kept[cells[equal[:, 0]]]], cells, labels, sizes * is_kept),
        num_equal=len(equal),
        pairs_of_problems=np.add.reduceat(pairs, first_cells),
        weights=heaviest,
        first_samples=order[np.flatnonzero(starts_problem)][owners[first_cells]],
    )


def _number_equal(equal: Ints, cells: Ints, labels: Bools, sizes: Ints) -> Ints:
    """Number pairs [pairs, 2] of sorted samples as all pairs are numbered; 0 for a cell left out.

    cells and labels are [samples], sizes [cells] are the numbers of pairs.
    """
    correct, incorrect = equal.T
    own = cells[correct]
    ranks = np.where(labels, np.cumsum(labels), np.cumsum(~labels)) - 1  # among its label
    num_correct, num_incorrect = (
        np.bincount(cells[side], minlength=len(sizes)) for side in (labels, ~labels)
    )
    i = ranks[correct] - (np.cumsum(num_correct) - num_correct)[own]
    j = ranks[incorrect] - (np.cumsum(num_incorrect) - num_incorrect)[own]
    return np.sort((np.cumsum(sizes) - sizes)[own] + i * num_incorrect[own] + j)


def _no_pair(
    problems: npt.NDArray[np.integer],
    is_correct: Bools,
    classes: npt.NDArray[np.integer] | None,
    num_equal: int,
) -> PairError:
    num_problems = len(np.unique(problems))
    if num_equal:
        return PairError(
            f"all {num_equal:,} pairs of the {num_problems} problems have the same tokens on both "
            "sides, after outputs are cut at dataset.max_length; raise it, or check the labels"
        )
    within = "" if classes is None else ", language, statement and (if matched) length and author"
    return PairError(
        f"none of the {num_problems} problems has both a correct and an incorrect "
        f"sample ({int(is_correct.sum())} correct, {int((~is_correct).sum())} incorrect in all); "
        f"a pair needs one of each of the same problem{within}"
    )


def _starts_run(values: npt.NDArray[np.integer]) -> Bools:
    """Mask of the first element of every run of equal values, [n]."""
    return np.append(np.ones(min(1, len(values)), bool), values[1:] != values[:-1])
