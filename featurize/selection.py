"""Featurizing only the samples that planned pairs touch: which rows stay, and what they carry."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.data.index import DatasetIndex
from featurize.files import digest
from featurize.store import PlannedPairs, mark_pairs

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Pairs planned over a dataset, and what else is wanted of it."""

    pairs: PlannedPairs
    """Pairs of rows of the index."""
    also: Ints
    """Rows of the index that are in no pair and wanted all the same: problems held out."""

    @property
    def fingerprint(self) -> str:
        """Tells two plans apart that touch the same samples."""
        numbers = [self.pairs.correct.tolist(), self.pairs.incorrect.tolist()]
        return digest([self.pairs.record, *numbers])


Choose = Callable[[pa.Table, Callable[[], Ints]], Selection]
"""Plans pairs over the table of an index; calls the second for the tokens of its outputs."""


def select(index: DatasetIndex, selection: Selection) -> DatasetIndex:
    """The selected rows of an index, in their order, marked with the pairs they are part of."""
    is_kept = np.zeros(len(index), bool)
    is_kept[selection.pairs.rows] = True
    is_kept[selection.also] = True
    places = np.cumsum(is_kept) - 1  # of each kept row among the kept
    kept = index.take(is_kept)
    pairs = replace(
        selection.pairs,
        correct=places[selection.pairs.correct],
        incorrect=places[selection.pairs.incorrect],
    )
    return replace(kept, table=mark_pairs(kept.table, pairs))
