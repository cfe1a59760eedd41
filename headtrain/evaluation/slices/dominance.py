"""Counts points below two thresholds at once, for many queries, without listing any pair.

A wavelet matrix keeps whole numbers bit by bit, highest bit first; at every level the zeros are
moved before the ones, stably, and how many zeros lie before each place is remembered. How many of
the numbers at places [begin, end) are below a bound then takes one look-up a level. Building is
O(n levels) in time and memory, a query O(levels), where 2**levels exceeds the largest number.
"""

from typing import NamedTuple

import numpy as np

from featurize.arrays import Ints


class _Level(NamedTuple):
    zeros_before: Ints
    """How many zeros of this bit lie before each place, [n + 1]."""
    num_zeros: int


class WaveletMatrix:
    """Whole numbers in a fixed order, ready to be counted."""

    def __init__(self, values: Ints) -> None:
        """`values` are [n], none negative."""
        self.num_levels = int(values.max(initial=0) + 1).bit_length()
        self._levels: list[_Level] = []
        for level in reversed(range(self.num_levels)):
            is_zero = (values >> level) & 1 == 0  # [n]
            zeros_before = np.concatenate([[0], np.cumsum(is_zero)])
            self._levels.append(_Level(zeros_before, int(zeros_before[-1])))
            values = np.concatenate([values[is_zero], values[~is_zero]])

    def count_below(self, begin: Ints, end: Ints, bound: Ints) -> Ints:
        """How many of the values at places [begin, end) are below the bound; all [queries].

        A bound may be at most one more than the largest value.
        """
        found = np.zeros(len(bound), np.int64)
        for level, (zeros_before, num_zeros) in zip(
            reversed(range(self.num_levels)), self._levels, strict=True
        ):
            zeros_begin, zeros_end = zeros_before[begin], zeros_before[end]
            is_one = (bound >> level) & 1 == 1  # [queries]
            found += np.where(is_one, zeros_end - zeros_begin, 0)
            begin = np.where(is_one, num_zeros + begin - zeros_begin, zeros_begin)
            end = np.where(is_one, num_zeros + end - zeros_end, zeros_end)
        return found
