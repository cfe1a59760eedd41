"""Featurizing only some samples, such as those of planned pairs: which stay, what they carry."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurize.arrays import Ints
from featurize.data.index import DatasetIndex
from featurize.io.files import digest
from featurize.store import PlannedPairs, mark_pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Pairs planned over a dataset, and what else is wanted of it."""

    pairs: PlannedPairs | None
    """Pairs of rows of the index; None where none are planned."""
    also: Ints
    """Rows of the index that are wanted in a pair or not, such as those of problems held out."""


def fingerprint_of(pairs: PlannedPairs) -> str:
    """Tells two plans apart that touch the same samples."""
    return digest([pairs.record, pairs.correct.tolist(), pairs.incorrect.tolist()])


Choose = Callable[[pa.Table, Callable[[], Ints]], Selection]
"""Plans pairs over the table of an index; calls the second for the tokens of its outputs."""


def select(index: DatasetIndex, selection: Selection) -> DatasetIndex:
    """The selected rows of an index, in their order, marked with the pairs they are part of."""
    is_kept = np.zeros(len(index), bool)
    is_kept[selection.also] = True
    if selection.pairs is None:
        return index.take(is_kept)
    is_kept[selection.pairs.rows] = True
    places = np.cumsum(is_kept) - 1  # of each kept row among the kept
    kept = index.take(is_kept)
    pairs = replace(
        selection.pairs,
        correct=places[selection.pairs.correct],
        incorrect=places[selection.pairs.incorrect],
    )
    return replace(kept, table=mark_pairs(kept.table, pairs))
