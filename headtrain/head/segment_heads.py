"""Heads on the segments of an output: a learned gate, or attention, decides what counts.

Both weigh segments by their tokens before anything is learned, so a linear value begins as that of
the mean over all tokens. An empty segment has no weight.
"""

import math

import torch
from torch import nn

from headtrain.features.inputs import SegmentLayout


class StateValue(nn.Module):
    """A value of each state: linear, or width -> units -> units//2 -> 1 with GELU; no bias."""

    def __init__(self, width: int, units: int | None) -> None:
        """`units` is the width of the first layer; None: linear."""
        super().__init__()
        sizes = [width] if units is None else [width, units, units // 2]
        if min(sizes) < 1:
            raise ValueError(
                f"an mlp value has at least 2 units in its first layer, got {units} for {width} "
                "inputs; set value_head_width, or segment_value to linear"
            )
        self.hidden_sizes = tuple(sizes[1:])
        self.layers = nn.ModuleList(
            nn.Linear(first, second, bias=False)
            for first, second in zip(sizes, [*sizes[1:], 1], strict=True)
        )

    def forward(
        self, states: torch.Tensor, masks: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
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

    head_type = "gated"

    def __init__(self, layout: SegmentLayout, units: int | None) -> None:
        super().__init__()
        self.layout = layout
        width = layout.num_layers * layout.width
        self.gate = nn.Parameter(torch.zeros(width))
        self.value = StateValue(width, units)

    def forward(
        self, inputs: torch.Tensor, masks: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
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

    head_type = "attention"

    def __init__(self, layout: SegmentLayout, units: int | None) -> None:
        super().__init__()
        self.layout = layout
        self.query = nn.Parameter(torch.zeros(layout.num_layers, layout.width))
        self.place = nn.Parameter(torch.zeros(layout.num_layers, layout.num_segments))
        self.value = StateValue(layout.width, units)

    def forward(
        self, inputs: torch.Tensor, masks: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Normalised [..., columns] -> [..., 1]; masks [..., units] are those of a sample."""
        states, shares = self.layout.split(inputs)
        scores = (states * self.query[:, None]).sum(-1) / math.sqrt(self.layout.width)
        scores = scores + self.place + shares.log().unsqueeze(-2)  # [..., layers, segments]
        weights = scores.flatten(-2).softmax(-1).unsqueeze(-1)
        state = (weights * states.flatten(-3, -2)).sum(-2)  # [..., width]
        values: torch.Tensor = self.value(state, masks)
        return values.unsqueeze(-1)


def create_segment_head(
    head_type: str, layout: SegmentLayout, units: int | None
) -> GatedValueHead | AttentionValueHead:
    """Make a gated or attention head; `units` of the first layer of its value, None: linear."""
    kind = GatedValueHead if head_type == "gated" else AttentionValueHead
    return kind(layout, units)


def fit_layers(
    features: torch.Tensor, layout: SegmentLayout, rows_at_once: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and deviation of each layer's states over the tokens, every output alike.

    Args:
        features: inputs of a head on segments, [rows, columns].
        layout: of the inputs.
        rows_at_once: rows computed together.

    Returns:
        float64 [layers, width] each.
    """
    shape = (layout.num_layers, layout.width)
    total = torch.zeros(shape, dtype=torch.float64, device=features.device)
    squares = torch.zeros_like(total)
    for chunk in features.split(rows_at_once):
        states, shares = layout.split(chunk.double())
        total += torch.einsum("rlkw,rk->lw", states, shares)
    mean = total / len(features)
    for chunk in features.split(rows_at_once):
        states, shares = layout.split(chunk.double())
        squares += torch.einsum("rlkw,rk->lw", (states - mean[:, None]).square(), shares)
    return mean, (squares / len(features)).sqrt()
