"""What length alone would tell: how long correct and incorrect outputs are, and who wins by it."""

from dataclasses import dataclass

import numpy as np

from featurize.arrays import Ints
from featurize.data.audit.rows import LabelledRows


@dataclass(frozen=True, kw_only=True)
class PairLengths:
    """Lengths over all possible pairs; None where there is no pair."""

    num_pairs: int
    num_problems: int
    mean_difference: float | None
    """Correct minus incorrect, mean over pairs."""
    longer_over_pairs: float | None
    """Accuracy of calling the longer output correct; 0.5 hides no shortcut, ties count half."""
    longer_over_problems: float | None
    """The same, mean over problems."""


@dataclass(frozen=True, kw_only=True)
class LengthAudit:
    """Lengths of outputs in one unit."""

    unit: str
    """characters or tokens."""
    mean_correct: float | None
    mean_incorrect: float | None
    pairs: PairLengths
    matched_bin: int
    """Width of the length bins of `matched`."""
    matched: PairLengths
    """Over the pairs that lie within one bin."""


def audit_lengths(
    labelled: LabelledRows, lengths: Ints, *, unit: str, matched_bin: int
) -> LengthAudit:
    """Compare the lengths [samples] of labelled samples."""
    correct, incorrect = lengths[labelled.is_correct], lengths[~labelled.is_correct]
    bins = lengths // matched_bin
    cells = labelled.groups * (int(bins.max(initial=0)) + 1) + bins
    return LengthAudit(
        unit=unit,
        mean_correct=float(correct.mean()) if len(correct) else None,
        mean_incorrect=float(incorrect.mean()) if len(incorrect) else None,
        pairs=measure_pairs(labelled, labelled.groups, lengths),
        matched_bin=matched_bin,
        matched=measure_pairs(labelled, np.unique(cells, return_inverse=True)[1], lengths),
    )


def measure_pairs(labelled: LabelledRows, cells: Ints, lengths: Ints) -> PairLengths:
    """Over the pairs within equal cells [samples] (dense codes), without listing them."""
    is_correct = labelled.is_correct
    num_cells, num_lengths = int(cells.max(initial=-1)) + 1, int(lengths.max(initial=0)) + 1
    keys = cells * num_lengths + lengths
    rivals = np.sort(keys[~is_correct])
    own = keys[is_correct]
    firsts = np.searchsorted(rivals, cells[is_correct] * num_lengths)
    shorter = np.searchsorted(rivals, own, "left") - firsts  # rivals of each correct sample
    alike = np.searchsorted(rivals, own, "right") - firsts - shorter
    num_rivals = np.bincount(cells[~is_correct], minlength=num_cells)[cells[is_correct]]
    total = np.bincount(cells[~is_correct], lengths[~is_correct], minlength=num_cells)
    differences = num_rivals * lengths[is_correct] - total[cells[is_correct]]

    problems, size = labelled.problems[is_correct], len(labelled.problem_ids)
    num_pairs = np.bincount(problems, num_rivals, minlength=size)
    wins = np.bincount(problems, shorter + alike / 2, minlength=size)
    has_pairs = num_pairs > 0
    if not has_pairs.any():
        return PairLengths(
            num_pairs=0,
            num_problems=0,
            mean_difference=None,
            longer_over_pairs=None,
            longer_over_problems=None,
        )
    return PairLengths(
        num_pairs=int(num_pairs.sum()),
        num_problems=int(has_pairs.sum()),
        mean_difference=float(differences.sum() / num_pairs.sum()),
        longer_over_pairs=float(wins.sum() / num_pairs.sum()),
        longer_over_problems=float((wins[has_pairs] / num_pairs[has_pairs]).mean()),
    )
