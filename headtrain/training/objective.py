"""What a head learns from: terms of the loss, grouped into the items that an epoch visits once.

A term is a pair of samples, or a sample with its label. An item is one term, or with batching
`problems` all terms of a problem, so that each of its samples is scored once.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from featurize.arrays import Floats32, Ints
from headtrain.features.inputs import HeadInputs
from headtrain.metrics.groups import find_equal_pairs, ranks_within
from headtrain.pairs.sampler import PairPlan
from headtrain.settings import TrainingSettings
from headtrain.training.loss import make_loss


class Terms(NamedTuple):
    """Terms of the loss, in the order of their items."""

    items: Ints  # [terms] index of the term's item in the request
    first: Ints  # [terms] feature row of the correct sample, or of the only one
    second: Ints | None  # [terms] feature row of the incorrect sample
    labels: Floats32 | None  # [terms] label of the only sample
    weights: Floats32  # [terms]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms of a training set and their grouping into items."""

    features: torch.Tensor
    """Normalised inputs, [rows, width]."""
    first: Ints
    """Feature row of each term's correct sample, or of its only one, [terms]."""
    second: Ints | None = None
    """Feature row of the incorrect sample, [terms]; None for single samples."""
    labels: Floats32 | None = None
    """Label of a single sample, [terms]: 1 is correct; None for pairs."""
    weights: Floats32
    """Weight of each term, [terms]."""
    counts: Ints | None = None
    """Number of terms of each item, in the order of the terms, [items]; None: one term each."""

    @property
    def num_items(self) -> int:
        """Number of items that an epoch visits."""
        return len(self.first) if self.counts is None else len(self.counts)

    def items_per_batch(self, num_pairs: int) -> int:
        """Return the number of items with about num_pairs pairs (two samples each), at least 1."""
        num_terms = num_pairs if self.second is not None else 2 * num_pairs
        return max(1, round(num_terms * self.num_items / len(self.first)))

    def terms_of(self, items: Ints) -> Terms:
        """Return all terms of these items, in their order."""
        owners, terms = np.arange(len(items)), items
        if self.counts is not None:
            counts, starts = self.counts[items], (np.cumsum(self.counts) - self.counts)[items]
            owners = np.repeat(owners, counts)
            terms = starts[owners] + ranks_within(counts)
        return Terms(
            items=owners,
            first=self.first[terms],
            second=None if self.second is None else self.second[terms],
            labels=None if self.labels is None else self.labels[terms],
            weights=self.weights[terms],
        )


def make_objective(inputs: HeadInputs, plan: PairPlan, settings: TrainingSettings) -> Objective:
    """Make the objective of the settings over normalised inputs."""
    if not make_loss(settings).uses_pairs:
        touched = np.unique(np.concatenate([plan.correct, plan.incorrect]))
        whole = Objective(
            features=inputs.features,
            first=inputs.rows[touched],
            labels=inputs.samples.is_correct[touched].astype(np.float32),
            weights=np.ones(len(touched), np.float32),
        )
        return _with_prefixes(whole, inputs.prefixes)
    correct, incorrect = plan.correct, plan.incorrect
    is_by_problem = settings.batching == "problems"
    if is_by_problem:
        if settings.problem_pairs == "all":
            correct, incorrect = all_pairs(inputs, plan)
        order = np.argsort(inputs.samples.problems[correct], kind="stable")
        correct, incorrect = correct[order], incorrect[order]
    _, problems, counts = np.unique(
        inputs.samples.problems[correct], return_inverse=True, return_counts=True
    )
    weights = np.ones(len(correct))
    if settings.pair_weights == "problems":
        weights = 1 / counts[problems]
        weights /= weights.mean()
    whole = Objective(
        features=inputs.features,
        first=inputs.rows[correct],
        second=inputs.rows[incorrect],
        weights=weights.astype(np.float32),
        counts=counts.astype(np.int64) if is_by_problem else None,
    )
    return _with_prefixes(whole, inputs.prefixes)


def _with_prefixes(whole: Objective, prefixes: tuple[int, ...]) -> Objective:
    """Add the terms of each prefix of the outputs, as items of their own."""
    if not prefixes:
        return whole
    starts, copies = (0, *prefixes), 1 + len(prefixes)

    def move(rows: Ints) -> Ints:
        return np.concatenate([rows + start for start in starts])

    return replace(
        whole,
        first=move(whole.first),
        second=None if whole.second is None else move(whole.second),
        labels=None if whole.labels is None else np.tile(whole.labels, copies),
        weights=np.tile(whole.weights, copies),
        counts=None if whole.counts is None else np.tile(whole.counts, copies),
    )


def all_pairs(inputs: HeadInputs, plan: PairPlan) -> tuple[Ints, Ints]:
    """Return every pair of the samples of the planned pairs, grouped by correct sample.

    Pairs whose sides have the same tokens, and so one feature row, are left out.
    """
    touched = np.unique(np.concatenate([plan.correct, plan.incorrect]))
    found = find_equal_pairs(inputs.samples.problems[touched], inputs.samples.is_correct[touched])
    correct, incorrect = touched[found].T
    is_kept = inputs.rows[correct] != inputs.rows[incorrect]
    return correct[is_kept], incorrect[is_kept]
