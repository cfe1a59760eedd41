"""The labelled samples of a split as arrays, with the groups in which pairs are made."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints
from featurize.store.samples import statement_codes

UNKNOWN = "unknown"
"""The name of missing values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """The samples that have a label; all arrays are [samples]."""

    rows: Ints
    """Row in the index."""
    problems: Ints
    """Code of the problem, into problem_ids."""
    groups: Ints
    """Code of problem, language and statement, from 0 without gaps; pairs are made within."""
    is_correct: Bools
    problem_ids: tuple[str, ...]
    num_rows: int
    """Samples of the split, labelled or not."""

    @property
    def num_groups(self) -> int:
        """The number of codes."""
        return int(self.groups.max(initial=-1)) + 1

    def num_rivals(self) -> Ints:
        """Count the incorrect samples to pair each correct one with; 0 for others, [samples]."""
        incorrect = np.bincount(self.groups[~self.is_correct], minlength=self.num_groups)
        return np.where(self.is_correct, incorrect[self.groups], 0)


def read_labelled_rows(table: pa.Table) -> LabelledRows:
    """Read the labelled rows of an index's table."""
    problem_codes, problem_ids = encode(table["problem_id"])
    languages, _ = encode(table["language"])
    rows = np.flatnonzero(pc.is_valid(table["is_correct"]).to_numpy())
    labels = pc.fill_null(table["is_correct"], False).to_numpy()
    problems = problem_codes[rows]
    statements = statement_codes(table)
    keys = problems * (int(languages.max(initial=0)) + 1) + languages[rows]
    keys = keys * (int(statements.max(initial=0)) + 1) + statements[rows]
    return LabelledRows(
        rows=rows,
        problems=problems,
        groups=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        is_correct=labels[rows].astype(bool),
        problem_ids=tuple(problem_ids),
        num_rows=table.num_rows,
    )


def encode(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Get the codes [rows] of a column and the values they are for; null becomes "unknown"."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), UNKNOWN]
    codes = pc.fill_null(encoded.indices, len(names) - 1).to_numpy().astype(np.int64)
    return codes, names
