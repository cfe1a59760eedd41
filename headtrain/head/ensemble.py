"""Several heads as one model: the mean of their values on the same inputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec


class EnsembleModel(nn.Module):
    """Heads of one shape over the same tensors; saved with stacked weights, [members, ...]."""

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
        """Stack the weights of the members by name, [members, ...]."""
        states = [member.state_dict() for member in self.members]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def load_stacked_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load stacked weights.

        Raises:
            RuntimeError: their shape differs.
        """
        for name, weights in state.items():
            if len(weights) != len(self.members):
                raise RuntimeError(f"{name} has {len(weights)} members, not {len(self.members)}")
        for index, member in enumerate(self.members):
            member.load_state_dict({name: weights[index] for name, weights in state.items()})


def make_model(spec: HeadSpec, num_members: int = 1) -> HeadModel | EnsembleModel:
    """Make a head or an ensemble of heads with uninitialised weights."""
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
        members = [HeadModel(spec) for _ in range(num_members)]
    return members[0] if num_members == 1 else EnsembleModel(members)


def read_state(model: HeadModel | EnsembleModel) -> dict[str, torch.Tensor]:
    """Return the weights as they are saved, on the CPU."""
    state = model.stacked_state() if isinstance(model, EnsembleModel) else model.state_dict()
    return {name: weights.detach().cpu().contiguous() for name, weights in state.items()}


def load_state(model: HeadModel | EnsembleModel, state: Mapping[str, torch.Tensor]) -> None:
    """Load saved weights into a model; a RuntimeError if their shapes differ."""
    if isinstance(model, EnsembleModel):
        model.load_stacked_state(state)
    else:
        model.load_state_dict(state)
