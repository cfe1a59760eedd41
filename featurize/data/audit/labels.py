"""Which labels a split has: pairs to be made of them, balance, and tables by kind of sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurize.arrays import Ints
from featurize.data.audit.rows import UNKNOWN, LabelledRows, by_power_of_two, encode

BALANCE_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The samples of one difficulty, language or source."""

    name: str
    num_samples: int
    num_problems: int
    share_correct: float | None
    """Of the labelled samples; None where none is labelled."""
    num_pairs: int
    """Pairs within problem and language, counted where the correct sample is of this kind."""


@dataclass(frozen=True, kw_only=True)
class LabelAudit:
    """What can be learnt from, and how evenly it lies."""

    num_samples: int
    num_unlabelled: int
    num_correct: int
    num_problems: int
    """Problems with any sample, labelled or not."""
    num_problems_with_both: int
    num_problems_only_correct: int
    num_problems_only_incorrect: int
    num_pairs: int
    """Possible pairs: a correct and an incorrect sample of one problem and language."""
    num_problems_with_pairs: int
    largest_share: float | None
    """Share of the pairs that lie in the largest hundredth of those problems."""
    pairs_left_by_cap: dict[int, int]
    """Pairs at most, when no problem may give more than so many."""
    mean_share_correct: float | None
    """Share of correct samples of a problem, mean over the problems with both labels."""
    balance: tuple[int, ...]
    """Problems with labels by their share of correct samples, in tenths."""
    pairs_histogram: dict[int, int]
    """Problems by their pairs: those below each power of two and not below the one before."""


def audit_labels(table: pa.Table, labelled: LabelledRows, caps: Sequence[int]) -> LabelAudit:
    """Count labels and pairs of an index's table."""
    num_ids = len(labelled.problem_ids)
    sizes = np.bincount(labelled.problems, minlength=num_ids)
    num_correct = np.bincount(labelled.problems[labelled.is_correct], minlength=num_ids)
    has_both = (num_correct > 0) & (num_correct < sizes)
    pairs = np.zeros(num_ids, np.int64)
    np.add.at(pairs, labelled.problem_of_groups, labelled.pairs_of_groups())
    pairs = np.sort(pairs[pairs > 0])
    shares = num_correct[sizes > 0] / sizes[sizes > 0]
    largest = pairs[-max(1, len(pairs) // 100) :].sum()
    return LabelAudit(
        num_samples=labelled.num_rows,
        num_unlabelled=labelled.num_rows - len(labelled.rows),
        num_correct=int(labelled.is_correct.sum()),
        num_problems=len(np.unique(encode(table["problem_id"])[0])),
        num_problems_with_both=int(has_both.sum()),
        num_problems_only_correct=int(((sizes > 0) & (num_correct == sizes)).sum()),
        num_problems_only_incorrect=int(((sizes > 0) & (num_correct == 0)).sum()),
        num_pairs=int(pairs.sum()),
        num_problems_with_pairs=len(pairs),
        largest_share=float(largest / pairs.sum()) if len(pairs) else None,
        pairs_left_by_cap={cap: int(np.minimum(pairs, cap).sum()) for cap in caps},
        mean_share_correct=float((num_correct / np.maximum(sizes, 1))[has_both].mean())
        if has_both.any()
        else None,
        balance=tuple(np.histogram(shares, BALANCE_BINS, (0, 1))[0].tolist()),
        pairs_histogram=by_power_of_two(pairs),
    )


def slice_by(table: pa.Table, labelled: LabelledRows, column: str) -> tuple[Slice, ...]:
    """Samples by the values of a column; values that are numbers are ordered as numbers."""
    codes, names = encode(table[column])
    problems, _ = encode(table["problem_id"])
    size = len(names)
    _, owners = np.unique(np.stack([problems, codes]), axis=1)  # each problem once a value
    num_samples, num_problems = (np.bincount(each, minlength=size) for each in (codes, owners))
    of_labelled = codes[labelled.rows]
    num_labelled = np.bincount(of_labelled, minlength=size)
    num_correct = np.bincount(of_labelled[labelled.is_correct], minlength=size)
    num_pairs = np.bincount(of_labelled, _pairs_of_correct(labelled), minlength=size)
    slices = [
        Slice(
            name=names[code],
            num_samples=int(num_samples[code]),
            num_problems=int(num_problems[code]),
            share_correct=float(num_correct[code] / num_labelled[code])
            if num_labelled[code]
            else None,
            num_pairs=int(num_pairs[code]),
        )
        for code in np.flatnonzero(num_samples).tolist()
    ]
    return tuple(sorted(slices, key=_place))


def _pairs_of_correct(labelled: LabelledRows) -> Ints:
    """Incorrect samples that each correct one may be paired with, 0 for the others, [samples]."""
    num_incorrect = np.bincount(
        labelled.groups[~labelled.is_correct], minlength=labelled.num_groups
    )
    return np.where(labelled.is_correct, num_incorrect[labelled.groups], 0)


def _place(part: Slice) -> tuple[bool, float, str]:
    try:
        return part.name == UNKNOWN, float(part.name), ""
    except ValueError:
        return part.name == UNKNOWN, float("inf"), part.name
