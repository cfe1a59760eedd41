"""Random numbers that are the same on every machine and with every version of numpy."""

import numpy as np
import numpy.typing as npt

from featurize.arrays import Ints

_LARGEST = 2**64 - 1


def mix_seed(seed: int, *position: int) -> int:
    """Derive the seed of a position in a run by splitmix64; neighbours have nothing in common.

    With it any step can be drawn without the steps before it.
    """
    state = 0
    for number in (seed, *position):  # one step of splitmix64 for each number
        state = (state + number + 0x9E3779B97F4A7C15) & _LARGEST
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _LARGEST
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _LARGEST
        state ^= state >> 31
    return state >> 1


class PortableRng:
    """A random number generator that uses only the raw numbers of PCG64.

    NOTE: numpy promises never to change the raw numbers of a seed; the results of Generator.choice,
    integers and permutation may change with any version (NEP 19). Also, Generator.choice lists the
    whole range if the range is small or more than a fiftieth of it is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._raw = np.random.PCG64(seed).random_raw

    def integers(self, limits: npt.NDArray[np.integer]) -> Ints:
        """Draw a uniform integer in [0, limit) for each of limits [n]."""
        bounds = limits.astype(np.uint64)
        numbers = self._raw(len(bounds))
        # The last numbers of the range would make small remainders more likely: draw them again.
        last = np.uint64(_LARGEST) - (np.uint64(_LARGEST) % bounds + np.uint64(1)) % bounds
        while len(again := np.flatnonzero(numbers > last)):
            numbers[again] = self._raw(len(again))
        return (numbers % bounds).astype(np.int64)

    def permutation(self, size: int) -> Ints:
        """Draw a uniform permutation [size]."""
        return np.argsort(self._raw(size), kind="stable").astype(np.int64)

    def subsets(self, limits: Ints, counts: Ints) -> Ints:
        """Draw counts[g] distinct integers in [0, limits[g]) for every group g, sorted by group.

        Every subset of a group is equally likely. Memory is linear in counts, not in limits.
        """
        starts = np.cumsum(limits) - limits
        is_dense = 2 * counts > limits
        numbers = np.concatenate(
            [
                self._subsets_by_shuffling(limits, starts, np.where(is_dense, counts, 0)),
                self._subsets_by_rejection(limits, starts, np.where(is_dense, 0, counts)),
            ]
        )
        return np.sort(numbers) - np.repeat(starts, counts)

    def _subsets_by_shuffling(self, limits: Ints, starts: Ints, counts: Ints) -> Ints:
        """Shuffle the integers of each group and take the first ones."""
        groups = np.flatnonzero(counts)
        sizes = limits[groups]  # below 2 * counts
        owners = np.repeat(np.arange(len(groups)), sizes)
        firsts = np.cumsum(sizes) - sizes
        ranks = np.arange(len(owners)) - firsts[owners]  # within the group
        shuffled = np.lexsort((self._raw(len(owners)), owners))
        kept = shuffled[ranks < counts[groups][owners]]
        numbers: Ints = ranks[kept] + starts[groups][owners[kept]]
        return numbers

    def _subsets_by_rejection(self, limits: Ints, starts: Ints, counts: Ints) -> Ints:
        """Draw with replacement until there are enough distinct integers.

        A round draws no more than are missing, so none is discarded because it came late.
        """
        ends = starts + limits
        taken = np.empty(0, np.int64)  # sorted
        missing = counts
        while missing.any():
            owners = np.repeat(np.arange(len(limits)), missing)
            new = np.unique(self.integers(limits[owners]) + starts[owners])
            places = np.searchsorted(taken, new)
            is_new = np.append(taken, -1)[places] != new
            taken = np.insert(taken, places[is_new], new[is_new])
            missing = counts - np.searchsorted(taken, ends) + np.searchsorted(taken, starts)
        return taken
