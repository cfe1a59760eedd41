"""The shape of a value head, and its network: from normalised inputs to one value.

Heads on segments weigh them by their tokens before anything is learned, so a linear value begins
as that of the mean over all tokens. An empty segment has no weight.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from featurize.store import FeatureStore
from headtrain.features.inputs import InputColumns, SegmentLayout, why_no_prefixes
from headtrain.settings import SEGMENT_HEADS, TrainingSettings

Masks = tuple[torch.Tensor, ...]
"""Dropout factors of the hidden layers, 0 or 1 / (1 - dropout): [..., units] each."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Everything that determines the shape of a head; the fields are keys of head.json."""

    head_type: str
    """mlp, linear, gated or attention."""
    dropout: float
    """Used only during training."""
    tensors: Mapping[str, int]
    """Store tensors that the head reads and their widths, in input order."""
    likelihood: bool
    """Whether the four likelihood columns follow the tensors."""
    head_width: int | None = None
    """Units of the mlp's first layer; None: an eighth of the inputs (mix: of the widest tensor)."""
    likelihood_direct: bool = False
    """Whether a linear term of the likelihood columns is added to the value."""
    feature_mix: str = "concat"
    """concat, or mix: a learned mix of the tensors (the likelihood is one more)."""
    segment_value: str = "linear"
    """linear or mlp: the value of a state in a gated or attention head."""

    @classmethod
    def of(cls, columns: InputColumns, training: TrainingSettings) -> Self:
        """Describe the head of these settings over these columns; a closed form is linear."""
        is_closed = training.is_closed_form
        return cls(
            head_type="linear" if is_closed else training.value_head_type,
            dropout=training.dropout,
            tensors=dict(zip(columns.tensors, columns.widths, strict=True)),
            likelihood=columns.likelihood,
            head_width=training.value_head_width,
            likelihood_direct=training.likelihood_direct and columns.likelihood and not is_closed,
            feature_mix="concat" if is_closed else training.feature_mix,
            segment_value=training.segment_value,
        )

    @property
    def columns(self) -> InputColumns:
        """The input columns that the head reads."""
        return InputColumns(
            tensors=tuple(self.tensors),
            widths=tuple(self.tensors.values()),
            likelihood=self.likelihood,
        )

    @property
    def mixed_blocks(self) -> tuple[int, ...]:
        """Widths of the column blocks that the head mixes; empty for concat."""
        return self.columns.blocks if self.feature_mix == "mix" else ()

    @property
    def num_direct(self) -> int:
        """Number of last columns with a linear term of their own."""
        return self.columns.num_direct if self.likelihood_direct else 0

    @property
    def layout(self) -> SegmentLayout | None:
        """Layout of the segments within the inputs; None unless the head reads segments."""
        if self.head_type not in SEGMENT_HEADS:
            return None
        *widths, num_segments = self.tensors.values()
        return SegmentLayout(
            num_layers=len(widths),
            num_segments=num_segments,
            width=widths[0] // num_segments,
        )

    def why_no_prefixes(self, store: FeatureStore) -> str | None:
        """Say why a store has no inputs of prefixes for this head; None if it has."""
        return why_no_prefixes(
            store,
            list(self.tensors),
            likelihood=self.likelihood,
            is_on_segments=self.layout is not None,
        )

    @property
    def units(self) -> tuple[int, ...]:
        """Widths of columns with a common unit; of a head on segments, of each layer's states."""
        if (layout := self.layout) is not None:
            return (layout.width,) * layout.num_layers
        return self.columns.units

    @property
    def num_units(self) -> int:
        """Units of the mlp's first layer."""
        if self.head_width is not None:
            return self.head_width
        if (layout := self.layout) is not None:
            return layout.width * (layout.num_layers if self.head_type == "gated" else 1) // 8
        return max(self.mixed_blocks or (self.columns.width,)) // 8

    @property
    def shape(self) -> tuple[Any, ...]:
        """What heads must have in common to be computed as one batch of heads."""
        columns = self.columns
        inputs = self.mixed_blocks or (columns.width, columns.num_direct)
        shape = (self.head_type, self.head_width, self.likelihood_direct, self.feature_mix, inputs)
        return shape if self.layout is None else (*shape, self.layout, self.segment_value)

    def make_network(
        self,
    ) -> "MLPValueHead | LinearValueHead | GatedValueHead | AttentionValueHead":
        """Make the network, with weights from torch's random generator."""
        if (layout := self.layout) is None:
            width = self.columns.width
            return create_value_head(width, self.head_type, self.dropout, self.num_units)
        kind = GatedValueHead if self.head_type == "gated" else AttentionValueHead
        return kind(layout, self.num_units if self.segment_value == "mlp" else None)


class MLPValueHead(nn.Module):
    """hidden -> units -> units//2 -> 1 with GELU, dropout after each GELU and no bias.

    Dropout keeps the head from memorising the problems.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.0, units: int | None = None) -> None:
        """`units` is the width of the first layer [default: hidden_size // 8]."""
        units = _checked_units(hidden_size, hidden_size // 8 if units is None else units)
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, units, bias=False),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(units, units // 2, bias=False),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(units // 2, 1, bias=False),
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., 1]."""
        values: torch.Tensor = self.mlp(hidden)
        return values


class LinearValueHead(nn.Module):
    """hidden -> 1 without bias: the baseline."""

    def __init__(self, hidden_size: int) -> None:
        if hidden_size < 1:
            raise ValueError(f"a linear head needs at least 1 input, got {hidden_size}")
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., 1]."""
        values: torch.Tensor = self.linear(hidden)
        return values


class StateValue(nn.Module):
    """A value of each state: linear, or width -> units -> units//2 -> 1 with GELU; no bias."""

    def __init__(self, width: int, units: int | None) -> None:
        """`units` is the width of the first layer; None: linear."""
        super().__init__()
        self.hidden_sizes = () if units is None else (_checked_units(width, units), units // 2)
        self.layers = nn.ModuleList(
            nn.Linear(first, second, bias=False)
            for first, second in itertools.pairwise((width, *self.hidden_sizes, 1))
        )

    def forward(self, states: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """[..., width] -> [...]; masks [..., units] multiply the hidden layers."""
        flow = states
        for place, layer in enumerate(self.layers[:-1]):
            flow = nn.functional.gelu(layer(flow))
            if masks is not None:
                flow = flow * masks[place]
        values: torch.Tensor = self.layers[-1](flow)
        return values.squeeze(-1)


class GatedValueHead(nn.Module):
    """sum over segments k of g_k v(x_k), where x_k are the states of all layers side by side.

    g = softmax(u x_k / sqrt(width) + log share_k), where share_k is the share of the tokens; u
    starts at 0. After SWIFT (arXiv 2505.12225), which rewards hidden states token by token; there
    the gate is a sigmoid, divided by the sum over the tokens.
    """

    def __init__(self, layout: SegmentLayout, units: int | None) -> None:
        super().__init__()
        self.layout = layout
        width = layout.num_layers * layout.width
        self.gate = nn.Parameter(torch.zeros(width))
        self.value = StateValue(width, units)

    def forward(self, inputs: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Normalised [..., columns] -> [..., 1]; masks [..., units] are those of a sample."""
        states, shares = self.layout.split(inputs)
        together = states.transpose(-3, -2).flatten(-2)  # [..., segments, layers * width]
        scores = together @ self.gate / math.sqrt(len(self.gate))
        gates = (scores + shares.log()).softmax(-1)  # [..., segments]
        of_segments = None if masks is None else tuple(mask.unsqueeze(-2) for mask in masks)
        values: torch.Tensor = gates * self.value(together, of_segments)
        return values.sum(-1, keepdim=True)


class AttentionValueHead(nn.Module):
    """v of the mean state over layers l and segments k, weighted by a learned query.

    The weights are softmax(q_l x_lk / sqrt(width) + b_lk + log share_k); q and b start at 0.
    Attention over layers and positions is the idea of arXiv 2510.02934.
    """

    def __init__(self, layout: SegmentLayout, units: int | None) -> None:
        super().__init__()
        self.layout = layout
        self.query = nn.Parameter(torch.zeros(layout.num_layers, layout.width))
        self.place = nn.Parameter(torch.zeros(layout.num_layers, layout.num_segments))
        self.value = StateValue(layout.width, units)

    def forward(self, inputs: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Normalised [..., columns] -> [..., 1]; masks [..., units] are those of a sample."""
        states, shares = self.layout.split(inputs)
        scores = (states * self.query[:, None]).sum(-1) / math.sqrt(self.layout.width)
        scores = scores + self.place + shares.log().unsqueeze(-2)  # [..., layers, segments]
        weights = scores.flatten(-2).softmax(-1).unsqueeze(-1)
        state = (weights * states.flatten(-3, -2)).sum(-2)  # [..., width]
        values: torch.Tensor = self.value(state, masks)
        return values.unsqueeze(-1)


def create_value_head(
    hidden_size: int, head_type: str = "mlp", dropout: float = 0.0, units: int | None = None
) -> MLPValueHead | LinearValueHead:
    """Make a head by its type; a linear head has no dropout."""
    if head_type == "mlp":
        return MLPValueHead(hidden_size, dropout=dropout, units=units)
    if head_type == "linear":
        return LinearValueHead(hidden_size)
    raise ValueError(f"value_head_type {head_type!r} is unknown; use mlp or linear")


def _checked_units(width: int, units: int) -> int:
    if units < 2:
        raise ValueError(
            f"an mlp has at least 2 units in its first layer, got {units} for {width} inputs; set "
            "value_head_width, or value_head_type (of heads on segments: segment_value) to linear"
        )
    return units
