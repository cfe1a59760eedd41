"""The input vectors of a head, read from a feature store.

An input vector is the concatenation of the selected tensors and, optionally, of the four likelihood
columns (log-probabilities that the backbone gave the output). Samples that share a feature row
share the vector.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from featurize.arrays import Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from featurize.store.samples import LIKELIHOOD_COLUMNS
from featurize.store.shards import SEGMENT_TOKENS, is_of_segments, segments_name
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.settings import TrainingSettings

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """The columns of an input vector, in order."""

    tensors: tuple[str, ...]
    widths: tuple[int, ...]
    likelihood: bool

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the tensors; the likelihood columns are one more block."""
        return (*self.widths, *([len(LIKELIHOOD_COLUMNS)] if self.likelihood else []))

    @property
    def units(self) -> tuple[int, ...]:
        """Widths of columns with a common unit: tensors; each likelihood column has its own."""
        return (*self.widths, *([1] * self.num_direct))

    @property
    def num_direct(self) -> int:
        """Number of columns at the end that may be added to the value: the likelihood columns."""
        return len(LIKELIHOOD_COLUMNS) if self.likelihood else 0

    @property
    def width(self) -> int:
        """Length of the whole vector."""
        return sum(self.blocks)


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """Labelled samples with their input vectors, one for each distinct feature row."""

    samples: LabelledSamples
    features: torch.Tensor
    """[rows, width] float32, on the training device or mapped from a file."""
    rows: Ints
    """Row of `features` that each sample reads, [samples]."""
    prefixes: tuple[int, ...] = ()
    """By how much the rows of each prefix come after those of whole outputs."""

    @property
    def num_whole(self) -> int:
        """Rows of whole outputs; those of prefixes come after them."""
        return len(self.features) // (1 + len(self.prefixes))


def choose_columns(
    store: FeatureStore, tensors: Sequence[str] | None, likelihood: bool | None
) -> InputColumns:
    """Resolve the settings against a store.

    None is every tensor but those of segments, and the likelihood if present.

    Raises:
        CriticError: the store lacks a column, or nothing is left to read.
    """
    widths = store.manifest.tensors
    whole = [name for name in widths if not is_of_segments(name)]
    names = whole if tensors is None else list(tensors)
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


def choose_head_columns(store: FeatureStore, training: TrainingSettings) -> InputColumns:
    """Resolve what the head of these settings reads: see `choose_columns`.

    A head on segments reads the segments of the named layers (None: of all), and their tokens.

    Raises:
        CriticError: as `choose_columns`; or the store has no segments.
    """
    if not training.is_on_segments:
        return choose_columns(store, training.features, training.likelihood)
    widths = store.manifest.tensors
    if SEGMENT_TOKENS not in widths:
        raise CriticError(
            f"{store.path}: has no segments of outputs, which training.value_head_type "
            f"{training.value_head_type!r} reads; featurize again with featurize.segments=8"
        )
    of_layers = [name for name in widths if name.startswith("segments.")]
    names = [name for name in training.features or of_layers if name != SEGMENT_TOKENS]
    if other := [name for name in names if not name.startswith("segments.")]:
        raise CriticError(
            f"training.features {other[0]!r}: value_head_type {training.value_head_type!r} reads "
            f"segments alone; name some of {', '.join(of_layers)}, or null for all"
        )
    return choose_columns(store, [*names, SEGMENT_TOKENS], likelihood=False)


def read_head_inputs(
    store: FeatureStore,
    columns: InputColumns,
    *,
    samples: LabelledSamples | None = None,
    memory: FeatureMemory | None = None,
    prefixes: Sequence[int] = (),
) -> HeadInputs:
    """Read the vectors of the given samples (default: all labelled ones) into `memory`.

    Each distinct feature row is read once. `prefixes` are numbers of segments: the vectors of so
    many first ones come after those of whole outputs.
    """
    if samples is None:
        samples = read_labelled_samples(store)
    feature_rows, first, rows = np.unique(
        samples.feature_rows, return_index=True, return_inverse=True
    )
    table_rows = samples.table_rows[first]
    memory = memory or FeatureMemory(device=torch.device("cpu"))
    num_whole = len(feature_rows)
    features = memory.allocate(num_whole * (1 + len(prefixes)), columns.width)
    starts = [num_whole * place for place in range(1 + len(prefixes))]
    for copy_start, num_kept in zip(starts, (None, *prefixes), strict=True):
        for start in range(0, num_whole, ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            found = read_rows(store, columns, feature_rows[chunk], table_rows[chunk], num_kept)
            place = copy_start + start
            features[place : place + len(found)] = found
    return HeadInputs(
        samples=samples,
        features=features,
        rows=rows.astype(np.int64),
        prefixes=tuple(starts[1:]),
    )


def read_rows(
    store: FeatureStore,
    columns: InputColumns,
    feature_rows: Ints,
    table_rows: Ints,
    num_kept: int | None = None,
) -> torch.Tensor:
    """Read input vectors [rows, width] in float32; table_rows has one sample per feature row.

    `num_kept` reads those of so many first segments; the caller has asked `why_no_prefixes`.

    Raises:
        CriticError: a value is NaN or inf.
    """
    if num_kept is not None:
        found = read_prefixes(store, columns.tensors, feature_rows, num_kept)
        _refuse_non_finite(store, columns, found, table_rows)
        return found
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
    names = np.repeat([*columns.tensors, *LIKELIHOOD_COLUMNS][: len(columns.units)], columns.units)
    task_id = store.samples["task_id"][int(table_rows[row])].as_py()
    raise CriticError(
        f"{store.path}: {names[column]} of sample {task_id!r} is {features[row, column].item()}; "
        "featurize again, or leave that sample out of the dataset"
    )


@dataclass(frozen=True, kw_only=True)
class SegmentLayout:
    """Layout of the segments within an input vector."""

    num_layers: int
    num_segments: int
    width: int
    """Of the states of one layer."""

    @property
    def num_states(self) -> int:
        """Columns of states; those of the tokens follow."""
        return self.num_layers * self.num_segments * self.width

    def split(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split inputs [..., columns] into states and shares of the tokens.

        Returns:
            [..., layers, segments, width] and [..., segments] with sum 1, 0 for an empty segment.
        """
        shape = (self.num_layers, self.num_segments, self.width)
        states = inputs[..., : self.num_states].unflatten(-1, shape)
        tokens = inputs[..., self.num_states :]
        return states, tokens / tokens.sum(-1, keepdim=True)


def kept_segments(fractions: Iterable[float], num_segments: int) -> list[int]:
    """Return how many segments the prefixes of these fractions have, each number once, ascending.

    A prefix that ends within a segment has all of it.
    """
    return sorted({max(1, math.ceil(share * num_segments - 1e-9)) for share in fractions})


def num_segments_of(store: FeatureStore) -> int:
    """Return the number of segments of each output in a store, 0 without any."""
    return store.manifest.tensors.get(SEGMENT_TOKENS, 0)


def why_no_prefixes(
    store: FeatureStore, tensors: Sequence[str], *, likelihood: bool, is_on_segments: bool
) -> str | None:
    """Say why inputs of prefixes cannot be made from the segments of a store; None if they can.

    Args:
        store: where the segments are.
        tensors: what the head reads.
        likelihood: whether it also reads the likelihood.
        is_on_segments: whether it is a head on segments, which knows their tokens.
    """
    if not num_segments_of(store):
        return f"{store.path} has no segments of outputs; featurize with featurize.segments=8"
    if likelihood:
        return "the head reads the likelihood, which segments do not have for prefixes"
    for name in tensors:
        kind, _, layer = name.partition(".")
        if is_on_segments and (kind == "segments" or name == SEGMENT_TOKENS):
            continue
        if kind != "mean":
            return f"the head reads {name}; only means of prefixes can be had from segments"
        if segments_name(int(layer)) not in store.manifest.tensors:
            return f"{store.path} has no {segments_name(int(layer))}, the segments of {name}"
    return None


def read_prefixes(
    store: FeatureStore, tensors: Sequence[str], feature_rows: Ints, num_kept: int
) -> torch.Tensor:
    """Read the inputs of the first `num_kept` segments in float32, [rows, width].

    The caller has asked `why_no_prefixes`.
    """
    rows = torch.from_numpy(feature_rows)
    tokens = store.gather(SEGMENT_TOKENS, rows)  # [rows, segments]
    tokens[:, num_kept:] = 0
    shares = tokens / tokens.sum(dim=1, keepdim=True)

    def read(name: str) -> torch.Tensor:
        if name == SEGMENT_TOKENS:
            return tokens
        kind, _, layer = name.partition(".")
        if kind == "segments":
            return store.gather(name, rows).float()
        states = store.gather(segments_name(int(layer)), rows).float()
        return torch.einsum("rk,rkw->rw", shares, states.unflatten(1, (tokens.shape[1], -1)))

    return torch.cat([read(name) for name in tensors], dim=1)
