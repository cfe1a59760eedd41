"""The labelled samples of a split as numbers: who may be compared with whom."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints

UNKNOWN = "unknown"
"""What a value that is not given is called."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """The samples that have a label; all arrays are [samples]."""

    rows: Ints
    """Row of the index."""
    problems: Ints
    """Code of its problem, into problem_ids."""
    groups: Ints
    """Code of its problem in one language: only equal ones are ever paired; dense."""
    is_correct: Bools
    problem_ids: tuple[str, ...]
    num_rows: int
    """Samples of the split, labelled or not."""

    @property
    def num_groups(self) -> int:
        """How many codes there are."""
        return int(self.groups.max(initial=-1)) + 1

    @property
    def problem_of_groups(self) -> Ints:
        """The problem of each group, [groups]."""
        problems = np.zeros(self.num_groups, np.int64)
        problems[self.groups] = self.problems
        return problems

    def pairs_of_groups(self) -> Ints:
        """How many (correct, incorrect) pairs each group holds, [groups]."""
        num_correct = np.bincount(self.groups[self.is_correct], minlength=self.num_groups)
        sizes = np.bincount(self.groups, minlength=self.num_groups)
        return num_correct * (sizes - num_correct)


def read_labelled_rows(table: pa.Table) -> LabelledRows:
    """The labelled rows of an index's table."""
    problem_codes, problem_ids = encode(table["problem_id"])
    languages, _ = encode(table["language"])
    rows = np.flatnonzero(pc.is_valid(table["is_correct"]).to_numpy())
    labels = pc.fill_null(table["is_correct"], False).to_numpy()
    problems = problem_codes[rows]
    keys = problems * (int(languages.max(initial=0)) + 1) + languages[rows]
    return LabelledRows(
        rows=rows,
        problems=problems,
        groups=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        is_correct=labels[rows].astype(bool),
        problem_ids=tuple(problem_ids),
        num_rows=table.num_rows,
    )


def encode(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Codes [rows] and the values they stand for; what is not given is called unknown."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), UNKNOWN]
    codes = pc.fill_null(encoded.indices, len(names) - 1).to_numpy().astype(np.int64)
    return codes, names


def by_power_of_two(values: npt.NDArray[np.integer]) -> dict[int, int]:
    """How many values are below each power of two and not below the one before it."""
    powers = np.ceil(np.log2(values + 1.0)).astype(int)  # value < 2 ** power
    found = np.bincount(powers)
    return {1 << power: int(found[power]) for power in range(len(found))}
