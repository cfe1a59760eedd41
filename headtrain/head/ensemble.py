"""Several heads as one: the same inputs, the mean of their values, and how far they disagree."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from headtrain.head.model import HeadModel


class EnsembleModel(nn.Module):
    """Heads of one shape over the same tensors; their weights are saved stacked, [members, ...]."""

    def __init__(self, members: Sequence[HeadModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., 1], the mean over the members."""
        return self.member_values(features).mean(0)

    def member_values(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [members, ..., 1]."""
        return torch.stack([member(features) for member in self.members])

    def stacked_state(self) -> dict[str, torch.Tensor]:
        """The weights of all members by the name they have in one, [members, ...]."""
        states = [member.state_dict() for member in self.members]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def load_stacked_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put stacked weights back.

        Raises:
            RuntimeError: they are not of this shape.
        """
        for name, weights in state.items():
            if len(weights) != len(self.members):
                raise RuntimeError(f"{name} has {len(weights)} members, not {len(self.members)}")
        for place, member in enumerate(self.members):
            member.load_state_dict({name: weights[place] for name, weights in state.items()})


def read_state(model: HeadModel | EnsembleModel) -> dict[str, torch.Tensor]:
    """The weights as they are saved, on the CPU."""
    state = model.stacked_state() if isinstance(model, EnsembleModel) else model.state_dict()
    return {name: weights.detach().cpu().contiguous() for name, weights in state.items()}


def put_state(model: HeadModel | EnsembleModel, state: Mapping[str, torch.Tensor]) -> None:
    """Saved weights into a model of their shape; a RuntimeError where they are not."""
    if isinstance(model, EnsembleModel):
        model.load_stacked_state(state)
    else:
        model.load_state_dict(state)
