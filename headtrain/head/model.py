"""The value head: a small network from the cached features of a sample to one value."""

from collections.abc import Sequence

import torch
from torch import nn

from headtrain.features.inputs import ROWS_AT_ONCE, SegmentLayout
from headtrain.head.segment_heads import (
    AttentionValueHead,
    GatedValueHead,
    create_segment_head,
    fit_layers,
)
from headtrain.head.spec import HeadSpec
from headtrain.pairs.rng import mix_seed

SEGMENT_CLASSES = (GatedValueHead, AttentionValueHead)

DIRECT_SCALE = 10.0
"""Scale of the direct weights, so that they learn faster: AdamW moves all weights alike."""


class MLPValueHead(nn.Module):
    """hidden -> units -> units//2 -> 1 with GELU, dropout after each GELU and no bias.

    Dropout keeps the head from memorising the problems.
    """

    head_type = "mlp"

    def __init__(self, hidden_size: int, dropout: float = 0.0, units: int | None = None) -> None:
        """`units` is the width of the first layer [default: hidden_size // 8]."""
        units = hidden_size // 8 if units is None else units
        if units < 2:
            raise ValueError(
                f"an mlp head has at least 2 units in its first layer, got {units} for "
                f"{hidden_size} inputs; set value_head_width, or value_head_type to linear"
            )
        super().__init__()
        self.hidden_size = hidden_size
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

    head_type = "linear"

    def __init__(self, hidden_size: int) -> None:
        if hidden_size < 1:
            raise ValueError(f"a linear head needs at least 1 input, got {hidden_size}")
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., 1]."""
        values: torch.Tensor = self.linear(hidden)
        return values


def create_value_head(
    hidden_size: int, head_type: str = "mlp", dropout: float = 0.0, units: int | None = None
) -> MLPValueHead | LinearValueHead:
    """Make a head by its type; a linear head has no dropout."""
    if head_type == "mlp":
        return MLPValueHead(hidden_size, dropout=dropout, units=units)
    if head_type == "linear":
        return LinearValueHead(hidden_size)
    raise ValueError(f"value_head_type {head_type!r} is unknown; use mlp or linear")


class FeatureNormaliser(nn.Module):
    """Brings features to mean 0 and deviation 1 over the training samples.

    Mean and scale are buffers, so they are saved with the head. Before `fit` they change nothing.
    Constant features keep scale 1.
    """

    mean: torch.Tensor  # [width]
    scale: torch.Tensor  # [width]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @torch.no_grad()
    def fit(
        self,
        features: torch.Tensor,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Compute mean and deviation of features [rows, width] in float64, chunk by chunk.

        Every feature has its own deviation or, given the widths of `blocks` of columns, the root
        mean square of the deviations of its block, which preserves the proportions in a block.
        """
        total = torch.zeros_like(self.mean, dtype=torch.float64, device=features.device)
        for chunk in torch.split(features, ROWS_AT_ONCE):
            total += chunk.sum(dim=0, dtype=torch.float64)
        mean = total / len(features)
        squares = torch.zeros_like(total)
        for chunk in torch.split(features, ROWS_AT_ONCE):
            # NOTE: around the mean; E[x^2] - E[x]^2 would lose a small deviation at a large mean.
            squares += (chunk.double() - mean).square_().sum(dim=0)
        deviation = (squares / len(features)).sqrt()
        # A deviation below float32 rounding counts as 0.
        deviation = deviation.where(deviation > 1e-6 * mean.abs(), 0.0)
        if blocks is not None:
            parts = deviation.square().split(list(blocks))
            deviation = torch.cat([part.mean().sqrt().expand(len(part)) for part in parts])
        scale = deviation.to(self.scale.dtype)
        self.mean.copy_(mean)
        self.scale.copy_(scale.where(scale > 0, 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        return (features - self.mean) / self.scale

    @torch.no_grad()
    def normalise_(self, features: torch.Tensor) -> None:
        """Apply forward in place, bit for bit, to features that are read many times.

        It works chunk by chunk, so mapped features are read from the disk once, not twice.
        """
        mean, scale = self.mean.to(features.device), self.scale.to(features.device)
        for chunk in torch.split(features, ROWS_AT_ONCE):
            chunk.sub_(mean).div_(scale)

    @torch.no_grad()
    def fit_segments(self, features: torch.Tensor, kind: str, layout: SegmentLayout) -> None:
        """Compute mean and deviation of segments [rows, width], the same for all of a layer.

        So the normalised mean over the tokens is the mean of the normalised segments. `kind` is
        that of `fit_and_normalise_`. The tokens of the segments stay as they are.
        """
        mean, deviation = fit_layers(features, layout, ROWS_AT_ONCE)  # [layers, width]
        deviation = deviation.where(deviation > 1e-6 * mean.abs(), 0.0)
        if kind == "tensor":
            squares = deviation.square().mean(dim=1, keepdim=True)
            deviation = squares.sqrt().expand_as(deviation)
        of_segments = (layout.num_layers, layout.num_segments, layout.width)
        for target, values in ((self.mean, mean), (self.scale, deviation.where(deviation > 0, 1))):
            repeated = values[:, None].expand(of_segments).flatten()
            target[: layout.num_states] = repeated.to(target.dtype)

    def fit_and_normalise_(
        self,
        features: torch.Tensor,
        kind: str,
        units: Sequence[int],
        layout: SegmentLayout | None = None,
        num_rows: int | None = None,
    ) -> None:
        """Fit to the train features, then normalise them in place.

        Args:
            features: [rows, width].
            kind: training.normaliser.
            units: widths of the columns with a common unit.
            layout: of the inputs of a head on segments.
            num_rows: fit to so many rows; None: to all.
        """
        fitted = features[:num_rows]
        if kind != "none" and layout is not None:
            self.fit_segments(fitted, kind, layout)
        elif kind != "none":
            self.fit(fitted, units if kind == "tensor" else None)
        self.normalise_(features)


def _create_head(
    spec: HeadSpec,
) -> MLPValueHead | LinearValueHead | GatedValueHead | AttentionValueHead:
    """Make the head of a spec."""
    if (layout := spec.layout) is not None:
        units = spec.num_units if spec.segment_value == "mlp" else None
        return create_segment_head(spec.head_type, layout, units)
    return create_value_head(spec.columns.width, spec.head_type, spec.dropout, spec.num_units)


class HeadModel(nn.Module):
    """A normaliser and the value head after it: what is trained and saved.

    With `spec.mixed_blocks` the first layer is sized for the widest block and reads a learned mix
    of the blocks: each is multiplied by its share of softmax(mix) times the number of blocks, so
    all factors are 1 at the start.

    The last `spec.num_direct` columns are inputs of the head like all others, and also have a
    linear term: value = head(x) + 10 w x[-num_direct:]. Otherwise a few informative columns would
    be lost among thousands.
    """

    column_blocks: torch.Tensor  # [width] block of each column

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        width, blocks = spec.columns.width, spec.mixed_blocks
        self.head = _create_head(spec)
        self.normaliser = FeatureNormaliser(width)
        if blocks:
            column_blocks = torch.arange(len(blocks)).repeat_interleave(torch.tensor(blocks))
            self.register_buffer("column_blocks", column_blocks, persistent=False)
            self.mix = nn.Parameter(torch.zeros(len(blocks)))
        if spec.num_direct:
            self.direct = nn.Parameter(torch.zeros(1, spec.num_direct))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Widths of the hidden layers of a head on segments, which dropout masks."""
        return self.head.value.hidden_sizes if isinstance(self.head, SEGMENT_CLASSES) else ()

    def train_values(
        self, normalised: torch.Tensor, masks: tuple[torch.Tensor, ...] | None
    ) -> torch.Tensor:
        """Values of a head on segments with dropout masks, [rows, width] -> [rows]."""
        values: torch.Tensor = self.head(normalised, masks)
        return values.squeeze(-1)

    @classmethod
    def from_seed(cls, spec: HeadSpec, seed: int) -> "HeadModel":
        """Make a head with the initial weights of a seed, drawn on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix_seed(seed, 0, 2))
            return cls(spec)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., 1]."""
        return self.score_normalised(self.normaliser(features))

    def member_values(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [1, ..., 1], as an ensemble of one."""
        values: torch.Tensor = self(features)
        return values[None]

    def score_normalised(self, normalised: torch.Tensor) -> torch.Tensor:
        """Normalised features [..., width] -> [..., 1]."""
        inputs = normalised
        if self.spec.mixed_blocks:
            gates = self.mix.softmax(0) * len(self.mix)
            inputs = normalised * gates[self.column_blocks]
        values: torch.Tensor = self.head(inputs)
        if num_direct := self.spec.num_direct:
            values = values + normalised[..., -num_direct:] @ (DIRECT_SCALE * self.direct).T
        return values
