"""String columns of a sample table as numbers that compare as the strings do."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """A column of strings, encoded."""

    codes: Ints
    """Rank of each row's string among the distinct ones, [rows]; null is -1."""
    names: pa.StringArray
    """The distinct strings, sorted: code k is names[k]."""


def rank_strings(column: pa.ChunkedArray) -> Ranks:
    """Encode a column of strings, dictionary-encoded already or not."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    ranks = np.append(np.argsort(order.to_numpy()), -1)  # the last is the rank of null
    places = pc.fill_null(encoded.indices, -1).to_numpy()
    return Ranks(codes=ranks[places].astype(np.int64), names=encoded.dictionary.take(order))
