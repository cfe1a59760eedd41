"""Segments of outputs in the inputs of a head, and inputs of prefixes made from them.

An input vector of a head on segments has the states of each layer's K segments, layer by layer,
and then the tokens of the segments. A prefix of an output is its first segments: the tokens of the
others are 0, and a head on segments gives them no weight.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from featurize.arrays import Ints
from featurize.store import SEGMENT_TOKENS, FeatureStore, segments_name


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
