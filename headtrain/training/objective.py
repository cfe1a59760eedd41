"""What a head learns from: pairs of samples, whole problems of pairs, or samples with their labels.

An objective is a list of items that a pass over the data visits once each. What an item is (a pair,
a problem, a sample) is its own business: to the loop it unfolds items into terms of the loss.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Ints
from headtrain.features.inputs import HeadInputs
from headtrain.pairs.sampler import PairPlan
from headtrain.settings import TrainingSettings

Floats = npt.NDArray[np.float32]


class Terms(NamedTuple):
    """Terms of the loss, in the order of the items they come from."""

    items: Ints  # [terms] place of the term's item among those asked for
    first: Ints  # [terms] feature row of the correct sample, or of the only one
    second: Ints | None  # [terms] feature row of the incorrect sample
    labels: Floats | None  # [terms] label of the only sample
    weights: Floats  # [terms]


class Objective(Protocol):
    """Items to learn from."""

    @property
    def features(self) -> torch.Tensor:
        """Normalised inputs, [rows, width]."""

    @property
    def num_items(self) -> int:
        """Items a pass visits."""

    def items_per_batch(self, batch_size: int) -> int:
        """Items that make up a batch of so many pairs."""

    def unfold(self, items: Ints) -> Terms:
        """The terms of these items."""


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """The planned pairs, each an item."""

    features: torch.Tensor
    correct: Ints  # [pairs] row of each pair's correct sample
    incorrect: Ints  # [pairs]
    weights: Floats  # [pairs]

    @property
    def num_items(self) -> int:
        """Pairs."""
        return len(self.correct)

    def items_per_batch(self, batch_size: int) -> int:
        """As many pairs."""
        return batch_size

    def unfold(self, items: Ints) -> Terms:
        """A term a pair."""
        return Terms(
            items=np.arange(len(items)),
            first=self.correct[items],
            second=self.incorrect[items],
            labels=None,
            weights=self.weights[items],
        )


@dataclass(frozen=True, kw_only=True)
class ProblemObjective:
    """Whole problems, each an item with all its pairs, so that its samples are scored once."""

    pairs: PairObjective  # ordered by problem
    starts: Ints  # [problems] where each problem's pairs begin
    counts: Ints  # [problems]

    @property
    def features(self) -> torch.Tensor:
        """Those of the pairs."""
        return self.pairs.features

    @property
    def num_items(self) -> int:
        """Problems."""
        return len(self.starts)

    def items_per_batch(self, batch_size: int) -> int:
        """So many problems as have batch_size pairs on average, but one at least."""
        return max(1, round(batch_size * self.num_items / self.pairs.num_items))

    def unfold(self, items: Ints) -> Terms:
        """A term for every pair of every problem."""
        counts = self.counts[items]
        owners = np.repeat(np.arange(len(items)), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        terms = self.pairs.unfold(self.starts[items][owners] + within)
        return terms._replace(items=owners)


@dataclass(frozen=True, kw_only=True)
class PointObjective:
    """Each sample that a planned pair touches, once, against its own label."""

    features: torch.Tensor
    rows: Ints  # [samples]
    labels: Floats  # [samples] 1 is correct

    @property
    def num_items(self) -> int:
        """Samples."""
        return len(self.rows)

    def items_per_batch(self, batch_size: int) -> int:
        """The two samples of every pair."""
        return 2 * batch_size

    def unfold(self, items: Ints) -> Terms:
        """A term a sample."""
        return Terms(
            items=np.arange(len(items)),
            first=self.rows[items],
            second=None,
            labels=self.labels[items],
            weights=np.ones(len(items), np.float32),
        )


def make_objective(inputs: HeadInputs, plan: PairPlan, settings: TrainingSettings) -> Objective:
    """The objective that the settings ask for."""
    if settings.loss_type == "pointwise":
        touched = np.unique(np.concatenate([plan.correct, plan.incorrect]))
        return PointObjective(
            features=inputs.features,
            rows=inputs.rows[touched],
            labels=inputs.samples.is_correct[touched].astype(np.float32),
        )
    correct, incorrect = plan.correct, plan.incorrect
    if settings.batching == "problems":
        if settings.problem_pairs == "all":
            correct, incorrect = all_pairs(inputs, plan)
        order = np.argsort(inputs.samples.problems[correct], kind="stable")
        correct, incorrect = correct[order], incorrect[order]
    problems = inputs.samples.problems[correct]
    pairs = PairObjective(
        features=inputs.features,
        correct=inputs.rows[correct],
        incorrect=inputs.rows[incorrect],
        weights=_weights(problems, settings),
    )
    if settings.batching == "pairs":
        return pairs
    _, starts, counts = np.unique(problems, return_index=True, return_counts=True)
    return ProblemObjective(
        pairs=pairs, starts=starts.astype(np.int64), counts=counts.astype(np.int64)
    )


def all_pairs(inputs: HeadInputs, plan: PairPlan) -> tuple[Ints, Ints]:
    """Every pair of the samples that the planned pairs touch, problem after problem."""
    problems = inputs.samples.problems
    correct, incorrect = np.unique(plan.correct), np.unique(plan.incorrect)
    order = np.argsort(problems[incorrect], kind="stable")
    incorrect = incorrect[order]
    start = np.searchsorted(problems[incorrect], problems[correct], side="left")
    end = np.searchsorted(problems[incorrect], problems[correct], side="right")
    counts = end - start  # [correct] rivals of each
    left = np.repeat(correct, counts)
    within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    return left, incorrect[np.repeat(start, counts) + within]


def _weights(problems: Ints, settings: TrainingSettings) -> Floats:
    """1 a pair, or 1 a problem shared by its pairs; 1 on average either way."""
    if settings.pair_weights == "pairs":
        return np.ones(len(problems), np.float32)
    _, places, counts = np.unique(problems, return_inverse=True, return_counts=True)
    weights = 1 / counts[places]
    return np.asarray(weights / weights.mean(), np.float32)
