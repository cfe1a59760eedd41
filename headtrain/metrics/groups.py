"""Samples grouped by problem and language: the groups that pairs never cross."""

import numpy as np

from featurize.arrays import Bools, Floats, Ints


def group_codes(*keys: Ints) -> Ints:
    """Get the dense code of each sample's group, [n]: 0, 1, ... in the order of the keys.

    keys are [n] each, such as problem and language; samples share a group if all keys agree.
    """
    order = np.lexsort(keys[::-1])
    is_new = np.zeros(len(order), bool)
    for key in keys:
        is_new[1:] |= key[order][1:] != key[order][:-1]
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(is_new)
    return codes


def sort_ties(groups: Ints, values: Floats) -> tuple[Ints, Ints, Ints]:
    """Sort by group, then by value, as np.lexsort((values, groups)) does but faster.

    Returns the order, [n], and where in it each group begins, [groups], and each run of equal
    values within a group, [ties].
    """
    order = np.argsort(values)
    order = order[np.argsort(groups[order], kind="stable")]
    group, value = groups[order], values[order]
    is_first = np.r_[True, group[1:] != group[:-1]]
    is_first_of_tie = is_first | np.r_[True, value[1:] != value[:-1]]
    return order, np.flatnonzero(is_first), np.flatnonzero(is_first_of_tie)


def find_equal_pairs(codes: Ints, is_correct: Bools) -> Ints:
    """List every correct sample with every incorrect one of the same code, [pairs, 2] indices."""
    correct, incorrect = np.flatnonzero(is_correct), np.flatnonzero(~is_correct)
    incorrect = incorrect[np.argsort(codes[incorrect], kind="stable")]
    begin = np.searchsorted(codes[incorrect], codes[correct], side="left")
    counts = np.searchsorted(codes[incorrect], codes[correct], side="right") - begin
    return np.stack(
        [
            np.repeat(correct, counts),
            incorrect[np.repeat(begin, counts) + ranks_within(counts)],
        ],
        axis=1,
    )


def ranks_within(counts: Ints) -> Ints:
    """Return 0..count-1 for every count, concatenated."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
