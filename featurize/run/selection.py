"""Featurize only some samples of a dataset, such as those of planned pairs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from featurize.arrays import Ints
from featurize.data.index import DatasetIndex
from featurize.io.files import digest
from featurize.store import PlannedPairs, mark_pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Pairs planned over a dataset, and other rows that are wanted."""

    pairs: PlannedPairs | None
    """Pairs of rows of the index; None if none are planned."""
    also: Ints
    """Rows of the index wanted whether in a pair or not, such as those of held-out problems."""

    def to_dict(self) -> dict[str, Any]:
        """The selection as JSON."""
        pairs = self.pairs and {
            "correct": self.pairs.correct.tolist(),
            "incorrect": self.pairs.incorrect.tolist(),
            "record": self.pairs.record,
        }
        return {"pairs": pairs, "also": self.also.tolist()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The selection that `to_dict` gave."""
        pairs = fields["pairs"] and PlannedPairs(
            correct=np.array(fields["pairs"]["correct"], np.int64),
            incorrect=np.array(fields["pairs"]["incorrect"], np.int64),
            record=fields["pairs"]["record"],
        )
        return cls(pairs=pairs, also=np.array(fields["also"], np.int64))


def fingerprint_of(pairs: PlannedPairs) -> str:
    """A digest that differs between two plans over the same samples."""
    return digest([pairs.record, pairs.correct.tolist(), pairs.incorrect.tolist()])


Choose = Callable[[pa.Table, Callable[[], Ints]], Selection]
"""Makes a selection from the table of an index; the second argument counts output tokens."""


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
