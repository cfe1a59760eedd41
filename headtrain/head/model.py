"""The value head: a small network that turns a sample's cached features into one value."""

from collections.abc import Sequence

import torch
from torch import nn

DIRECT_SPEED = 10.0
"""How much faster the direct weights learn: AdamW moves every weight alike, and they are few."""


class MLPValueHead(nn.Module):
    """hidden -> units -> units//2 -> 1 with GELU, dropout after each GELU and no bias.

    Dropout keeps the head from memorising which problem a feature belongs to.
    """

    head_type = "mlp"

    def __init__(self, hidden_size: int, dropout: float = 0.0, units: int | None = None) -> None:
        """`units` are those of the first layer [default: hidden_size // 8]."""
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
    """hidden -> 1 without bias: the simplest judge."""

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

    Its numbers are buffers: they travel with the head, so that whoever scores uses the same ones.
    Until it is fitted it changes nothing. What never varies keeps scale 1.
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
        rows_at_once: int = 16_384,
    ) -> None:
        """Take mean and deviation over features [rows, width], in float64, piece by piece.

        Each feature gets its own deviation or, with the widths of `blocks` of columns, the root
        mean square of those of its block: then the features of a block keep their proportions.
        """
        total = torch.zeros_like(self.mean, dtype=torch.float64, device=features.device)
        for piece in torch.split(features, rows_at_once):
            total += piece.sum(dim=0, dtype=torch.float64)
        mean = total / len(features)
        squares = torch.zeros_like(total)
        for piece in torch.split(features, rows_at_once):
            # NOTE: around the mean; E[x^2] - E[x]^2 would lose a small deviation at a large mean.
            squares += (piece.double() - mean).square_().sum(dim=0)
        deviation = (squares / len(features)).sqrt()
        # What float32 cannot tell from rounding is no deviation.
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
    def normalise_(self, features: torch.Tensor, rows_at_once: int = 16_384) -> None:
        """The same as forward, bit for bit, in place: for features that are read many times.

        Piece by piece, so that features mapped from a file are gone through once and not twice.
        """
        mean, scale = self.mean.to(features.device), self.scale.to(features.device)
        for piece in torch.split(features, rows_at_once):
            piece.sub_(mean).div_(scale)


class HeadModel(nn.Module):
    """What is trained and saved: a normaliser and the value head behind it.

    With `mixed` blocks of columns (a block a tensor) the first layer has the size it would have for
    the widest block alone and reads a learned mix of the blocks: each weighs as much as its share
    of softmax(mix), times the number of blocks, so that all weigh 1 at the start.

    The last `direct` columns are read by the head like all others and lead straight to the value as
    well: value = head(x) + 10 w x[-direct:]. A few columns that say much drown among thousands.
    """

    column_blocks: torch.Tensor  # [width] block of each column

    def __init__(
        self,
        width: int,
        head_type: str = "mlp",
        dropout: float = 0.0,
        mixed: Sequence[int] | None = None,
        direct: int = 0,
        units: int | None = None,
    ) -> None:
        """`mixed` are widths of blocks, None reads all columns alike; `units`: the mlp's."""
        super().__init__()
        if units is None and mixed:
            units = max(mixed) // 8
        self.head = create_value_head(width, head_type, dropout, units)
        self.normaliser = FeatureNormaliser(width)
        if mixed:
            assert sum(mixed) == width, "blocks make up the whole input"
            blocks = torch.arange(len(mixed)).repeat_interleave(torch.tensor(mixed))
            self.register_buffer("column_blocks", blocks, persistent=False)
            self.mix = nn.Parameter(torch.zeros(len(mixed)))
        if direct:
            self.direct = nn.Parameter(torch.zeros(1, direct))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., 1]."""
        return self.judge(self.normaliser(features))

    def judge(self, normalised: torch.Tensor) -> torch.Tensor:
        """Normalised features [..., width] -> [..., 1]."""
        gated = normalised
        if hasattr(self, "mix"):
            gates = self.mix.softmax(0) * len(self.mix)
            gated = normalised * gates[self.column_blocks]
        values: torch.Tensor = self.head(gated)
        if hasattr(self, "direct"):
            weights = DIRECT_SPEED * self.direct
            values = values + normalised[..., -weights.shape[1] :] @ weights.T
        return values
