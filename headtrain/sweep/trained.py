"""A head of a sweep: what is to be trained, and what has become of it."""

from dataclasses import dataclass

from featurize.arrays import Floats
from headtrain.head.model import HeadModel
from headtrain.sweep.points import SweepPoint


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One head to train: a point of the grid with a seed."""

    point: SweepPoint
    seed: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained head, as it was at its best on the watched problems."""

    candidate: Candidate
    model: HeadModel
    best_step: int
    num_steps: int
    num_validations: int
    history: tuple[tuple[int, dict[str, float]], ...]
    """Metrics at every validation."""
    choose: Floats | None
    """Its values of the choosing half, [samples]; None if it diverged."""
    report: Floats | None
    holdout: Floats | None
    seconds: float
    """Its even share of the time its stack took."""
