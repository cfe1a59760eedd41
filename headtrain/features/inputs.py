"""What a head reads from a feature store: labelled samples, and the input vector of each.

An input vector is the chosen tensors side by side, then, if wanted, the four likelihood columns
(what the backbone itself thought of the output). Samples that share a feature row share the vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.arrays import Ints
from featurize.errors import CriticError
from featurize.store import LIKELIHOOD_COLUMNS, FeatureStore
from headtrain.features.columns import rank_strings
from headtrain.features.memory import FeatureMemory
from headtrain.metrics.groups import group_codes

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """Which columns an input vector is made of, in order."""

    tensors: tuple[str, ...]
    widths: tuple[int, ...]
    likelihood: bool

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the tensors, and of the likelihood as one more."""
        return (*self.widths, *([len(LIKELIHOOD_COLUMNS)] if self.likelihood else []))

    @property
    def scaled_alike(self) -> tuple[int, ...]:
        """Widths of the columns of one unit: a tensor's; each of the likelihood has its own."""
        return (*self.widths, *([1] * self.num_direct))

    @property
    def num_direct(self) -> int:
        """Columns at the end that may lead straight to the value: those of the likelihood."""
        return len(LIKELIHOOD_COLUMNS) if self.likelihood else 0

    @property
    def width(self) -> int:
        """Length of the whole vector."""
        return sum(self.blocks)


@dataclass(frozen=True, kw_only=True)
class LabelledSamples:
    """The samples of a store that have a label, ordered by problem, language and task_id."""

    table_rows: Ints
    """Where each sample stands in store.samples, [samples]."""
    problems: Ints
    """Code of its problem in one language, [samples]: only equal codes may be compared."""
    is_correct: npt.NDArray[np.bool_]
    """Its label, [samples]."""
    output_tokens: Ints
    """Length of its output, [samples]."""
    feature_rows: Ints
    """Its row in the store's tensors, [samples]."""
    num_unlabelled: int
    """Samples of the store left out for want of a label."""

    def __len__(self) -> int:
        return len(self.table_rows)

    def take(self, kept: Ints | npt.NDArray[np.bool_]) -> "LabelledSamples":
        """The samples at these places."""
        return LabelledSamples(
            table_rows=self.table_rows[kept],
            problems=self.problems[kept],
            is_correct=self.is_correct[kept],
            output_tokens=self.output_tokens[kept],
            feature_rows=self.feature_rows[kept],
            num_unlabelled=self.num_unlabelled,
        )


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """Labelled samples with their input vectors, one a distinct feature row."""

    samples: LabelledSamples
    features: torch.Tensor
    """[rows, width] float32, on the device asked for, or mapped from a file."""
    rows: Ints
    """Row of `features` that each sample reads, [samples]."""


def choose_columns(
    store: FeatureStore, tensors: Sequence[str] | None, likelihood: bool | None
) -> InputColumns:
    """Resolve the settings against a store: None is every tensor, and likelihood if it is there."""
    widths = store.manifest.tensors
    names = list(widths) if tensors is None else list(tensors)
    unknown = [name for name in names if name not in widths]
    if unknown:
        raise CriticError(
            f"{store.path}: has no tensor {unknown[0]!r}, only {', '.join(widths)}; "
            "name one of those in training.features, or featurize again with it"
        )
    has_likelihood = set(LIKELIHOOD_COLUMNS) <= set(store.samples.column_names)
    if likelihood and not has_likelihood:
        raise CriticError(
            f"{store.path}: has no likelihood columns, but training.likelihood is true; set it "
            "to null or false, or featurize again with featurize.likelihood=true"
        )
    wants_likelihood = has_likelihood if likelihood is None else likelihood
    if not names and not wants_likelihood:
        raise CriticError(
            f"{store.path}: training.features is empty and there is no likelihood to read; "
            f"name one of {', '.join(widths)}"
        )
    return InputColumns(
        tensors=tuple(names),
        widths=tuple(widths[name] for name in names),
        likelihood=wants_likelihood,
    )


def read_labelled_samples(store: FeatureStore) -> LabelledSamples:
    """Read who is labelled how; the result does not depend on the order of the store's rows."""
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
    order, codes = _ordered(problems, languages, table["task_id"].take(pa.array(table_rows)))
    table_rows = table_rows[order]
    return LabelledSamples(
        table_rows=table_rows,
        problems=codes,
        is_correct=pc.fill_null(labels, False).to_numpy()[table_rows],
        output_tokens=table["output_tokens"].to_numpy()[table_rows].astype(np.int64),
        feature_rows=table["feature_row"].to_numpy()[table_rows].astype(np.int64),
        num_unlabelled=table.num_rows - len(table_rows),
    )


def read_head_inputs(
    store: FeatureStore,
    columns: InputColumns,
    *,
    samples: LabelledSamples | None = None,
    device: torch.device | str = "cpu",
    memory: FeatureMemory | None = None,
) -> HeadInputs:
    """Read the vectors of the given samples (default: all labelled ones), moved to the device once.

    A distinct feature row is read once, however many samples share it. Where `memory` has no room
    for all of them, they lie in a file instead.
    """
    if samples is None:
        samples = read_labelled_samples(store)
    feature_rows, first, rows = np.unique(
        samples.feature_rows, return_index=True, return_inverse=True
    )
    table_rows = samples.table_rows[first]
    memory = memory or FeatureMemory(device=torch.device(device))
    features = memory.allocate(len(feature_rows), columns.width)
    for start in range(0, len(feature_rows), ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        features[piece] = read_rows(store, columns, feature_rows[piece], table_rows[piece])
    return HeadInputs(samples=samples, features=features, rows=rows.astype(np.int64))


def read_rows(
    store: FeatureStore, columns: InputColumns, feature_rows: Ints, table_rows: Ints
) -> torch.Tensor:
    """Input vectors [rows, width] in float32; table_rows names a sample of each feature row."""
    features = torch.empty((len(feature_rows), columns.width))
    start = 0
    for name, width in zip(columns.tensors, columns.widths, strict=True):
        features[:, start : start + width] = store.gather(name, torch.tensor(feature_rows))
        start += width
    if columns.likelihood:
        for place, name in enumerate(LIKELIHOOD_COLUMNS, start):
            values = store.samples[name].take(pa.array(table_rows)).to_numpy()
            features[:, place] = torch.from_numpy(values.astype(np.float32))
    _refuse_non_finite(store, columns, features, table_rows)
    return features


def _refuse_non_finite(
    store: FeatureStore, columns: InputColumns, features: torch.Tensor, table_rows: Ints
) -> None:
    # NOTE: a sum is finite only if every term is, and far cheaper than a mask of all the terms.
    if bool(features.sum().isfinite()):
        return
    bad = (~features.isfinite()).nonzero()  # [bad, 2]
    if not len(bad):  # finite terms whose sum overflowed
        return
    row, column = bad[0].tolist()
    task_id = store.samples["task_id"][int(table_rows[row])].as_py()
    ends = np.cumsum(columns.widths)
    place = int(np.searchsorted(ends, column, side="right"))
    likelihood_place = column - sum(columns.widths)
    name = columns.tensors[place] if place < len(ends) else LIKELIHOOD_COLUMNS[likelihood_place]
    raise CriticError(
        f"{store.path}: {name} of sample {task_id!r} is {features[row, column].item()}; "
        "featurize again, or leave that sample out of the dataset"
    )


def _ordered(problems: Ints, languages: Ints, task_ids: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Order by problem, language and task_id, and the dense group codes in that order."""
    groups = group_codes(problems, languages)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    # NOTE: one sort of all ids compares far-apart strings: 12 s at 3.2M samples, against 4 s.
    ids = task_ids.combine_chunks().take(pa.array(order))
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if end - start > 1:
            inner = pc.sort_indices(ids.slice(start, end - start)).to_numpy()
            order[start:end] = order[start:end][inner]
    return order, groups[order]
