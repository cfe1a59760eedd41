"""Samples grouped by problem and language: the groups that pairs never cross."""

import numpy as np

from featurize.arrays import Ints


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
