"""From a head's values, which have no unit, to probabilities of being correct, and their honesty.

Platt scaling: p = 1 / (1 + exp(-(slope * score + intercept))), fitted on train scores by maximum
likelihood with Platt's targets (c+1)/(c+2) and 1/(i+2) in place of 1 and 0, where c and i count
the correct and incorrect samples. With them the optimum is finite even where train is separable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.metrics.pairwise import ScoredSamples, best_f1_threshold

NUM_BINS = 15
"""Equal-width bins of the expected calibration error, the customary number."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The line that turns a score into the log-odds of being correct."""

    slope: float
    intercept: float

    def probability(self, scores: Floats) -> Floats:
        """Return [n] probabilities of being correct."""
        return _sigmoid(self.slope * scores + self.intercept)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All that an evaluation takes from train: kept with a head, it judges other sets alone."""

    calibration: Calibration
    f1_threshold: float
    """Scores from here on are called correct."""

    @classmethod
    def fit(cls, train: ScoredSamples) -> Self:
        """Fit calibration and threshold on the scores of the train split."""
        return cls(
            f1_threshold=best_f1_threshold(train.scores, train.is_correct),  # needs both labels
            calibration=fit_calibration(train.scores, train.is_correct),
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The decision that `dataclasses.asdict` made a dict of."""
        calibration = Calibration(**fields["calibration"])
        return cls(calibration=calibration, f1_threshold=fields["f1_threshold"])


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Samples of about one probability, and how many of them are correct."""

    num_samples: int
    mean_probability: float
    share_correct: float


def fit_calibration(scores: Floats, labels: Bools, *, max_steps: int = 100) -> Calibration:
    """Fit Platt scaling by Newton's method with step halving (the loss is convex)."""
    num_correct, num_incorrect = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (num_correct + 1) / (num_correct + 2), 1 / (num_incorrect + 2))
    centre, spread = float(scores.mean()), float(scores.std())
    # NOTE: identical scores can have a tiny spread from rounding; then only the base rate is left.
    is_constant = bool(scores.min() == scores.max()) or spread == 0
    unit = np.zeros_like(scores) if is_constant else (scores - centre) / spread
    design = np.stack([unit, np.ones_like(unit)], axis=1)[:, int(is_constant) :]  # [n, 1 or 2]

    weights = np.zeros(design.shape[1])
    loss = _cross_entropy(design @ weights, targets)
    for _ in range(max_steps):
        probability = _sigmoid(design @ weights)
        gradient = design.T @ (probability - targets) / len(targets)
        curvature = (design.T * (probability * (1 - probability))) @ design / len(targets)
        direction = np.linalg.solve(curvature, gradient)
        step, decrease = 1.0, float(gradient @ direction)
        if decrease < 1e-18:
            break
        while _cross_entropy(design @ (weights - step * direction), targets) > loss and step > 1e-9:
            step /= 2
        weights = weights - step * direction
        loss = _cross_entropy(design @ weights, targets)

    if is_constant:
        return Calibration(slope=0.0, intercept=float(weights[0]))
    slope = float(weights[0] / spread)
    return Calibration(slope=slope, intercept=float(weights[1] - slope * centre))


def expected_calibration_error(probability: Floats, labels: Bools) -> float:
    """Return sum over bins of n_bin / n * |share correct - mean probability|.

    The bins are [0, 1/15), ..., [14/15, 1]; an empty bin adds nothing.
    """
    everything = np.zeros(len(labels), np.int64)
    # n_bin * |share - mean| = |sum of (label - probability)| in the bin
    return float(np.abs(calibration_surplus(probability, labels, everything)).sum() / len(labels))


def calibration_surplus(probability: Floats, labels: Bools, group: Ints) -> Floats:
    """Return the sum of (label - probability) in each group and bin, [groups, 15].

    group is [n] dense codes, such as of problems.
    """
    bins = np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    size = (int(group.max()) + 1) * NUM_BINS
    surplus = np.bincount(group * NUM_BINS + bins, weights=labels - probability, minlength=size)
    return np.asarray(surplus, np.float64).reshape(-1, NUM_BINS)


def reliability(probability: Floats, labels: Bools) -> list[ReliabilityBin]:
    """Return the bins that hold samples, for a reliability diagram."""
    bins = np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    sizes = np.bincount(bins, minlength=NUM_BINS)
    correct = np.bincount(bins, weights=labels, minlength=NUM_BINS)
    total = np.bincount(bins, weights=probability, minlength=NUM_BINS)
    return [
        ReliabilityBin(
            num_samples=int(sizes[place]),
            mean_probability=float(total[place] / sizes[place]),
            share_correct=float(correct[place] / sizes[place]),
        )
        for place in np.flatnonzero(sizes)
    ]


def brier_score(probability: Floats, labels: Bools) -> float:
    """Return the mean squared difference between probability and label; 0.25 is always 0.5."""
    return float(np.mean((probability - labels) ** 2))


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), dtype=np.float64)  # cannot overflow


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - targets * logits))
