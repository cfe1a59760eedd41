"""Heads in closed form: one direction, computed from the pairs in one pass and without epochs.

Every kind gives a linear head over the normalised features x. With d = x+ - x- of a pair, m the
weighted mean of d and M that of d d':

contrast mean   w = m, the mean difference
contrast lda    w = (M + l I)^-1 m, Fisher's direction; as M = cov(d) + m m', cov(d) gives the same
contrast pca    the first eigenvector of M, with the sign that m agrees with
centroid        |x - c-|^2 - |x - c+|^2 with the centroids of the two classes, so w = 2 (c+ - c-)

The constant of `centroid`, |c-|^2 - |c+|^2, is left out: it is the same for every sample, and the
fitted calibration and threshold contain it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from featurize.arrays import Ints
from featurize.errors import CriticError
from headtrain.features.inputs import ROWS_AT_ONCE
from headtrain.features.memory import gather
from headtrain.head.distance import oas_share
from headtrain.settings import TrainingSettings
from headtrain.training.objective import Objective

MAX_WIDTH = 16_384
"""Most input columns of a direction that needs M, which has width^2 numbers: 2 GB in float64."""


class Fitted(NamedTuple):
    """A direction, and the values of the pairs that it was fitted to."""

    weight: torch.Tensor  # [width] float32
    correct: torch.Tensor  # [pairs] float32
    incorrect: torch.Tensor  # [pairs] float32
    shares: torch.Tensor  # [pairs] float32, sum 1


def fit_direction(objective: Objective, settings: TrainingSettings, device: torch.device) -> Fitted:
    """Fit the direction of settings.value_head_type to pairs of normalised features.

    Computed in float64. The weight of a contrast is scaled so that the root mean square of the
    pairs' differences in value is 1, which changes no order.

    Raises:
        CriticError: there is no direction, or M would be too large.
    """
    weights = torch.from_numpy(objective.weights).to(device, torch.float64)
    shares = weights / weights.sum()
    if settings.value_head_type == "centroid":
        weight = _between_centroids(objective, device)
    else:
        weight = _contrast(objective, shares, settings)
    correct, incorrect = (
        torch.cat([chunk @ weight for chunk in _read(objective.features, rows, device)])
        for rows in _sides(objective)
    )
    size = (shares @ (correct - incorrect).square()).sqrt()
    if not size > 0:
        raise CriticError(
            f"training.value_head_type {settings.value_head_type!r}: the features of the correct "
            "and incorrect outputs of the pairs do not differ in any direction; name other "
            "tensors in training.features"
        )
    scale = 1.0 if settings.value_head_type == "centroid" else size
    return Fitted(
        weight=(weight / scale).float(),
        correct=(correct / scale).float(),
        incorrect=(incorrect / scale).float(),
        shares=shares.float(),
    )


def _contrast(
    objective: Objective, shares: torch.Tensor, settings: TrainingSettings
) -> torch.Tensor:
    """Return the contrast direction [width]."""
    width, needs_moment = objective.features.shape[1], settings.contrast != "mean"
    if needs_moment and width > MAX_WIDTH:
        raise CriticError(
            f"training.contrast {settings.contrast!r} over {width} features needs a matrix of "
            f"their square, and at most {MAX_WIDTH} are supported; name fewer tensors in "
            "training.features, or set it to mean"
        )
    device = shares.device
    mean = torch.zeros(width, dtype=torch.float64, device=device)
    moment = torch.zeros(width, width, dtype=torch.float64, device=device) if needs_moment else None
    sides = [_read(objective.features, rows, device) for rows in _sides(objective)]
    for correct, incorrect, share in zip(*sides, shares.split(ROWS_AT_ONCE), strict=True):
        differences = correct - incorrect  # [chunk, width]
        weighted = differences * share[:, None]
        mean += weighted.sum(0)
        if moment is not None:
            moment += weighted.T @ differences
    if moment is None:
        return mean
    if settings.contrast == "pca":
        return _first_component(moment, mean)
    return _fisher(moment, mean, settings.contrast_shrinkage, _num_independent(objective))


def _first_component(moment: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    component: torch.Tensor = torch.linalg.eigh(moment).eigenvectors[:, -1]
    return -component if float(component @ mean) < 0 else component


def _fisher(
    moment: torch.Tensor, mean: torch.Tensor, shrinkage: float | None, count: int
) -> torch.Tensor:
    level = moment.trace() / len(moment)
    if not level > 0:
        return mean  # all differences are 0, which the caller refuses
    share = shrinkage
    if share is None:
        squares, trace = float(moment.square().sum()), float(moment.trace())
        share = oas_share(squares, trace, len(moment), count)
    shrunk = (1 - share) * moment
    shrunk.diagonal().add_(share * level)
    direction: torch.Tensor = torch.linalg.solve(shrunk, mean)
    return direction


def _between_centroids(objective: Objective, device: torch.device) -> torch.Tensor:
    """Return 2 (c+ - c-), where every output of the pairs counts once, [width]."""
    correct, incorrect = (
        torch.stack([part.sum(0) for part in _read(objective.features, rows, device)]).sum(0)
        / len(rows)
        for rows in map(np.unique, _sides(objective))
    )
    return 2 * (correct - incorrect)


def _num_independent(objective: Objective) -> int:
    """Return how many differences share no output at most: the outputs of the rarer class."""
    return min(len(np.unique(rows)) for rows in _sides(objective))


def _sides(objective: Objective) -> tuple[Ints, Ints]:
    assert objective.second is not None, "the settings refuse closed forms without pairs"
    return objective.first, objective.second


def _read(features: torch.Tensor, rows: Ints, device: torch.device) -> Iterator[torch.Tensor]:
    """Read rows in float64, chunk by chunk, [chunk, width]."""
    for chunk in torch.from_numpy(rows).to(features.device).split(ROWS_AT_ONCE):
        yield gather(features, chunk, device).double()
