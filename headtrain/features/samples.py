"""The labelled samples of a feature store, grouped by problem; no features are read here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints
from featurize.errors import CriticError
from featurize.store.samples import statement_codes
from headtrain.metrics.groups import find_equal_pairs, group_codes

if TYPE_CHECKING:
    from featurize.store import FeatureStore


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedStrings:
    """A column of strings as numbers that sort like the strings."""

    codes: Ints
    """Rank of each row's string among the distinct ones, [rows]; null is -1."""
    names: pa.StringArray
    """The distinct strings, sorted: code k is names[k]."""


def rank_strings(column: pa.ChunkedArray) -> RankedStrings:
    """Encode a column of strings, plain or dictionary-encoded."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    ranks = np.append(np.argsort(order.to_numpy()), -1)  # the last is the rank of null
    indices = pc.fill_null(encoded.indices, -1).to_numpy()
    return RankedStrings(
        codes=ranks[indices].astype(np.int64), names=encoded.dictionary.take(order)
    )


@dataclass(frozen=True, kw_only=True)
class LabelledSamples:
    """The samples of a store that have a label, ordered by problem, language and task_id."""

    table_rows: Ints
    """Row of each sample in store.samples, [samples]."""
    problems: Ints
    """Code of its problem, language and statement, [samples]; only equal codes are compared."""
    is_correct: Bools
    """Its label, [samples]."""
    output_tokens: Ints
    """Length of its output, [samples]."""
    feature_rows: Ints
    """Its row in the store's tensors, [samples]."""
    num_unlabelled: int
    """Samples of the store without a label."""

    def __len__(self) -> int:
        return len(self.table_rows)

    @property
    def equal_pairs(self) -> Ints:
        """Correct and incorrect sample of pairs with the same tokens on both sides, [pairs, 2]."""
        return find_equal_pairs(group_codes(self.problems, self.feature_rows), self.is_correct)

    def take(self, indices: Ints | Bools) -> "LabelledSamples":
        """Select samples by index or by mask."""
        return LabelledSamples(
            table_rows=self.table_rows[indices],
            problems=self.problems[indices],
            is_correct=self.is_correct[indices],
            output_tokens=self.output_tokens[indices],
            feature_rows=self.feature_rows[indices],
            num_unlabelled=self.num_unlabelled,
        )


def read_labelled_samples(store: "FeatureStore") -> LabelledSamples:
    """Read all samples with a label; the result does not depend on the order of the store's rows.

    Raises:
        CriticError: no sample has a label.
    """
    table = store.samples
    labels = table["is_correct"]
    table_rows = np.flatnonzero(pc.is_valid(labels).to_numpy())
    if not len(table_rows):
        raise CriticError(
            f"{store.path}: none of the {table.num_rows} samples has a label; "
            "is_correct must be given in the dataset"
        )
    problems = rank_strings(table["problem_id"]).codes[table_rows]
    languages = rank_strings(table["language"]).codes[table_rows]
    statements = statement_codes(table)[table_rows]
    task_ids = table["task_id"].take(pa.array(table_rows))
    order, codes = _order(group_codes(problems, languages, statements), task_ids)
    table_rows = table_rows[order]
    return LabelledSamples(
        table_rows=table_rows,
        problems=codes,
        is_correct=pc.fill_null(labels, False).to_numpy()[table_rows],
        output_tokens=table["output_tokens"].to_numpy()[table_rows].astype(np.int64),
        feature_rows=table["feature_row"].to_numpy()[table_rows].astype(np.int64),
        num_unlabelled=table.num_rows - len(table_rows),
    )


def _order(groups: Ints, task_ids: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Order by group and task_id; also the dense group codes in that order."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    # NOTE: one sort of all ids compares distant strings: 12 s at 3.2M samples, against 4 s.
    ids = task_ids.combine_chunks().take(pa.array(order))
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if end - start > 1:
            inner = pc.sort_indices(ids.slice(start, end - start)).to_numpy()
            order[start:end] = order[start:end][inner]
    return order, groups[order]
