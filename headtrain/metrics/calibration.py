"""Calibration: from scores without a unit to probabilities of being correct.

Platt scaling: p = 1 / (1 + exp(-(slope * score + intercept))), fitted on train scores by maximum
likelihood with Platt's targets (c+1)/(c+2) and 1/(i+2) in place of 1 and 0, where c and i are the
numbers of correct and incorrect samples. They keep the optimum finite if train is separable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples

NUM_BINS = 15
"""Equal-width bins of the expected calibration error."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The linear map from a score to the log-odds of being correct."""

    slope: float
    intercept: float

    def probability(self, scores: Floats) -> Floats:
        """Get the probabilities of being correct, [n]."""
        return _sigmoid(self.log_odds(scores))

    def log_odds(self, scores: Floats) -> Floats:
        """Get the log-odds of being correct, [n]."""
        return self.slope * scores + self.intercept


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is fitted on the train split and saved with a head: calibration and F1 threshold."""

    calibration: Calibration
    f1_threshold: float
    """Scores of at least this are called correct."""

    @classmethod
    def fit(cls, train: ScoredSamples) -> Self:
        """Fit calibration and threshold on the scores of the train split."""
        return cls(
            f1_threshold=best_f1_threshold(train.scores, train.is_correct),  # needs both labels
            calibration=fit_calibration(train.scores, train.is_correct),
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build the decision from the dict that `dataclasses.asdict` made."""
        calibration = Calibration(**fields["calibration"])
        return cls(calibration=calibration, f1_threshold=fields["f1_threshold"])


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Samples of similar probability, and the share of them that is correct."""

    num_samples: int
    mean_probability: float
    share_correct: float


def fit_calibration(scores: Floats, labels: Bools, *, max_steps: int = 100) -> Calibration:
    """Fit Platt scaling by Newton's method with step halving (the loss is convex)."""
    num_correct, num_incorrect = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (num_correct + 1) / (num_correct + 2), 1 / (num_incorrect + 2))
    centre, spread = float(scores.mean()), float(scores.std())
    # NOTE: rounding can give identical scores a tiny spread; then only the base rate can be fitted.
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


def calibration_surplus(probability: Floats, labels: Bools, group: Ints) -> Floats:
    """Sum label - probability in each group and bin, [groups, 15]; group is [n] dense codes."""
    bins = np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    size = (int(group.max()) + 1) * NUM_BINS
    surplus = np.bincount(group * NUM_BINS + bins, weights=labels - probability, minlength=size)
    return np.asarray(surplus, np.float64).reshape(-1, NUM_BINS)


def reliability(probability: Floats, labels: Bools) -> list[ReliabilityBin]:
    """Get the non-empty bins of a reliability diagram."""
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


def best_f1_threshold(scores: Floats, labels: Bools) -> float:
    """Get the score threshold with the highest F1; of equally good ones the highest.

    Raises:
        EvaluationError: only one of the two labels is there.
    """
    num_correct = int(labels.sum())
    if not 0 < num_correct < len(labels):
        raise EvaluationError(
            f"{num_correct} of {len(labels)} samples are correct: both labels are needed"
        )
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    num_called = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(labels[order]) / (num_called + num_correct)  # [n] of the first i + 1
    is_last_of_tie = np.r_[descending[1:] != descending[:-1], True]  # ties are called together
    return float(descending[np.argmax(np.where(is_last_of_tie, f1, -1.0))])


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), dtype=np.float64)  # cannot overflow


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - targets * logits))
