"""The value head: from the cached features of a sample to one value; alone or in an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import nn

from headtrain.features.inputs import ROWS_AT_ONCE, SegmentLayout
from headtrain.head.spec import (
    AttentionValueHead,
    GatedValueHead,
    HeadSpec,
    LinearValueHead,
    Masks,
    MLPValueHead,
)
from headtrain.pairs.rng import mix_seed

DIRECT_SCALE = 10.0
"""Scale of the direct weights, so that they learn faster: AdamW moves all weights alike."""


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
        layout: SegmentLayout | None = None,
    ) -> None:
        """Compute mean and deviation of features [rows, width] in float64.

        Every feature has its own deviation or, given the widths of `blocks` of columns, the root
        mean square of the deviations of its block, which preserves the proportions in a block.

        With `layout` the features are those of a head on segments. All segments of a layer have
        the mean and deviation of its tokens, so the normalised mean over the tokens is the mean of
        the normalised segments; their tokens stay as they are. Blocks are then of the layers.
        """
        mean, deviation = _moments(features) if layout is None else _layer_moments(features, layout)
        # A deviation below float32 rounding counts as 0.
        deviation = deviation.where(deviation > 1e-6 * mean.abs(), 0.0)
        if blocks is not None:
            parts = deviation.square().split(list(blocks))
            deviation = torch.cat([part.mean().sqrt().expand(len(part)) for part in parts])
        scale = deviation.to(self.scale.dtype)
        for target, values in ((self.mean, mean), (self.scale, scale.where(scale > 0, 1.0))):
            if layout is None:
                target.copy_(values)
            else:
                of_layers = values.view(layout.num_layers, 1, layout.width)
                repeated = of_layers.expand(-1, layout.num_segments, -1).flatten()
                target[: layout.num_states] = repeated.to(target.dtype)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        return (features - self.mean) / self.scale

    @torch.no_grad()
    def normalise_(self, features: torch.Tensor) -> None:
        """Apply forward in place, bit for bit, to features that are read many times.

        It works chunk by chunk, so mapped features are read from the disk once, not twice.
        """
        mean, scale = self.mean.to(features.device), self.scale.to(features.device)
        for chunk in features.split(ROWS_AT_ONCE):
            chunk.sub_(mean).div_(scale)


def mean_of(features: torch.Tensor) -> torch.Tensor:
    """Average rows [rows, width] in float64, [width]."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for chunk in features.split(ROWS_AT_ONCE):
        total += chunk.sum(dim=0, dtype=torch.float64)
    return total / len(features)


def _moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each column, float64 [width] each."""
    mean = mean_of(features)
    squares = torch.zeros_like(mean)
    for chunk in features.split(ROWS_AT_ONCE):
        # NOTE: around the mean; E[x^2] - E[x]^2 would lose a small deviation at a large mean.
        squares += (chunk.double() - mean).square_().sum(dim=0)
    return mean, (squares / len(features)).sqrt()


def _layer_moments(
    features: torch.Tensor, layout: SegmentLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of states over the tokens, every output alike, [layers * width] each."""
    shape = (layout.num_layers, layout.width)
    total = torch.zeros(shape, dtype=torch.float64, device=features.device)
    squares = torch.zeros_like(total)
    for chunk in features.split(ROWS_AT_ONCE):
        states, shares = layout.split(chunk.double())
        total += torch.einsum("rlkw,rk->lw", states, shares)
    mean = total / len(features)
    for chunk in features.split(ROWS_AT_ONCE):
        states, shares = layout.split(chunk.double())
        squares += torch.einsum("rlkw,rk->lw", (states - mean[:, None]).square(), shares)
    return mean.flatten(), (squares / len(features)).sqrt().flatten()


class HeadModel(nn.Module):
    """A normaliser and the value head after it: what is trained and saved.

    With `spec.mixed_blocks` the first layer is sized for the widest block and reads a learned mix
    of the blocks: each is multiplied by its share of softmax(mix) times the number of blocks, so
    all factors are 1 at the start.

    The last `spec.num_direct` columns are inputs of the head like all others, and also have a
    linear term: value = head(x) + 10 w x[-num_direct:]. Otherwise a few informative columns would
    be lost among thousands.
    """

    head: MLPValueHead | LinearValueHead | GatedValueHead | AttentionValueHead
    column_blocks: torch.Tensor  # [width] block of each column

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = spec.make_network()
        self.normaliser = FeatureNormaliser(spec.columns.width)
        if blocks := spec.mixed_blocks:
            column_blocks = torch.arange(len(blocks)).repeat_interleave(torch.tensor(blocks))
            self.register_buffer("column_blocks", column_blocks, persistent=False)
            self.mix = nn.Parameter(torch.zeros(len(blocks)))
        if spec.num_direct:
            self.direct = nn.Parameter(torch.zeros(1, spec.num_direct))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Widths of the hidden layers of a head on segments, which dropout masks."""
        if isinstance(self.head, GatedValueHead | AttentionValueHead):
            return self.head.value.hidden_sizes
        return ()

    def train_values(self, normalised: torch.Tensor, masks: Masks | None) -> torch.Tensor:
        """Values of a head on segments with dropout masks, [rows, width] -> [rows]."""
        values: torch.Tensor = self.head(normalised, masks)
        return values.squeeze(-1)

    @classmethod
    def from_seed(cls, spec: HeadSpec, seed: int) -> Self:
        """Make a head with the initial weights of a seed, drawn on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix_seed(seed, 0, 2))
            return cls(spec)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., 1]."""
        return self.score_normalised(self.normaliser(features))

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


class EnsembleModel(nn.Module):
    """Heads of one shape over the same tensors, at least one: the mean of their values."""

    def __init__(self, members: Sequence[HeadModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @classmethod
    def of(cls, spec: HeadSpec, num_members: int) -> Self:
        """Make heads with uninitialised weights."""
        with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
            return cls([HeadModel(spec) for _ in range(num_members)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., 1], the mean over the members."""
        return self.member_values(features).mean(0)

    def member_values(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [members, ..., 1]."""
        return torch.stack([member(features) for member in self.members])

    def saved_state(self) -> dict[str, torch.Tensor]:
        """Return the weights as they are saved: of several members stacked, [members, ...]."""
        states = [
            {name: weights.detach().cpu().contiguous() for name, weights in state.items()}
            for state in (member.state_dict() for member in self.members)
        ]
        if len(states) == 1:
            return states[0]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def load_saved(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what `saved_state` returns.

        Raises:
            RuntimeError: the shapes differ.
        """
        if len(self.members) == 1:
            self.members[0].load_state_dict(dict(state))
            return
        for name, weights in state.items():
            if len(weights) != len(self.members):
                raise RuntimeError(f"{name} has {len(weights)} members, not {len(self.members)}")
        for index, member in enumerate(self.members):
            member.load_state_dict({name: weights[index] for name, weights in state.items()})
