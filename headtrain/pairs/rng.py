"""Exact random draws that are the same on every machine and under every version of numpy."""

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints

_LARGEST = np.uint64(2**64 - 1)


class Draws:
    """Draws made of PCG64's raw numbers alone.

    NOTE: numpy promises never to change the raw numbers of a seed; what Generator.choice, integers
    and permutation make of them it may change with any version (NEP 19). And Generator.choice
    lists the whole range when the range is small or more than a fiftieth of it is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._raw = np.random.PCG64(seed).random_raw

    def below(self, limits: npt.NDArray[np.integer]) -> Ints:
        """A number in [0, limit) for each of limits [n], every one equally likely."""
        bounds = limits.astype(np.uint64)
        numbers = self._raw(len(bounds))
        # The last numbers of the range, which would make the first remainders likelier, go again.
        last = _LARGEST - (_LARGEST % bounds + np.uint64(1)) % bounds
        while len(again := np.flatnonzero(numbers > last)):
            numbers[again] = self._raw(len(again))
        return (numbers % bounds).astype(np.int64)

    def order(self, size: int) -> Ints:
        """A permutation [size], every one equally likely."""
        return np.argsort(self._raw(size), kind="stable").astype(np.int64)

    def distinct(self, limits: Ints, counts: Ints) -> Ints:
        """counts[g] distinct numbers in [0, limits[g]) for every g, group after group.

        Every subset of a group is equally likely. Memory is linear in counts, not in limits.
        """
        starts = np.cumsum(limits) - limits
        is_dense = 2 * counts > limits
        numbers = np.concatenate(
            [
                self._by_choosing(limits, starts, np.where(is_dense, counts, 0)),
                self._by_repeating(limits, starts, np.where(is_dense, 0, counts)),
            ]
        )
        return np.sort(numbers) - np.repeat(starts, counts)

    def _by_choosing(self, limits: Ints, starts: Ints, counts: Ints) -> Ints:
        """List the numbers of each group, in random order, and keep the first ones."""
        groups = np.flatnonzero(counts)
        sizes = limits[groups]  # below 2 * counts
        owners = np.repeat(np.arange(len(groups)), sizes)
        firsts = np.cumsum(sizes) - sizes
        places = np.arange(len(owners)) - firsts[owners]  # within the group
        shuffled = np.lexsort((self._raw(len(owners)), owners))
        kept = shuffled[places < counts[groups][owners]]
        numbers: Ints = places[kept] + starts[groups][owners[kept]]
        return numbers

    def _by_repeating(self, limits: Ints, starts: Ints, counts: Ints) -> Ints:
        """Draw with repeats until so many different numbers came: the first of their kind count.

        No round draws more than are missing, so that none is ever thrown away for coming late.
        """
        ends = starts + limits
        taken = np.empty(0, np.int64)  # sorted
        missing = counts
        while missing.any():
            owners = np.repeat(np.arange(len(limits)), missing)
            new = np.unique(self.below(limits[owners]) + starts[owners])
            places = np.searchsorted(taken, new)
            is_new = np.append(taken, -1)[places] != new
            taken = np.insert(taken, places[is_new], new[is_new])
            missing = counts - np.searchsorted(taken, ends) + np.searchsorted(taken, starts)
        return taken
