"""What a head learns from: its inputs, and terms of the loss, grouped into items of an epoch.

A term is a pair of samples, or a sample with its label. An item is one term, or with batching
`problems` all terms of a problem, so that each of its samples is scored once.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from featurize.arrays import Floats32, Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import (
    HeadInputs,
    kept_segments,
    num_segments_of,
    read_head_inputs,
)
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, rank_strings
from headtrain.head.model import FeatureNormaliser, mean_of
from headtrain.head.spec import HeadSpec
from headtrain.metrics.groups import find_equal_pairs, ranks_within
from headtrain.pairs.sampler import PairPlan
from headtrain.settings import TrainingSettings
from headtrain.training.loss import make_loss


def read_train_inputs(
    store: FeatureStore,
    samples: LabelledSamples,
    spec: HeadSpec,
    training: TrainingSettings,
    *,
    normaliser: FeatureNormaliser,
    memory: FeatureMemory,
) -> HeadInputs:
    """Read the train features and normalise them in place, by a normaliser fitted to whole outputs.

    Raises:
        CriticError: training.prefixes or training.centre needs what the store does not have.
    """
    columns = spec.columns
    prefixes = _prefixes(store, spec, training)
    inputs = read_head_inputs(store, columns, samples=samples, memory=memory, prefixes=prefixes)
    if training.centre != "none":
        groups = _group_rows(store, inputs, training.centre)
        mean = mean_of(inputs.features[: inputs.num_whole])
        for features in inputs.features.split(inputs.num_whole):
            centre_(features, groups, mean)
    if training.normaliser != "none":
        whole = inputs.features[: inputs.num_whole]
        normaliser.fit(whole, spec.units if training.normaliser == "tensor" else None, spec.layout)
    normaliser.normalise_(inputs.features)
    return inputs


def centre_(features: torch.Tensor, groups: Ints, mean: torch.Tensor) -> None:
    """Move the rows of each group so that its mean is `mean`, in place.

    Args:
        features: [rows, width].
        groups: [rows] code of the group of each row; of a group of one row nothing is left.
        mean: float64 [width].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    for rows in np.split(order, starts):
        places = torch.from_numpy(rows).to(features.device)
        own = features[places].double()
        features[places] = (own - own.mean(0) + mean).to(features.dtype)


def _prefixes(store: FeatureStore, spec: HeadSpec, training: TrainingSettings) -> list[int]:
    """Numbers of segments of the prefixes to train on, without the whole outputs."""
    if training.prefixes is None:
        return []
    if (why := spec.why_no_prefixes(store)) is not None:
        raise CriticError(f"training.prefixes {list(training.prefixes)}: {why}")
    return kept_segments(training.prefixes, num_segments_of(store))[:-1]


def _group_rows(store: FeatureStore, inputs: HeadInputs, centre: str) -> Ints:
    """Code of the problem or author of each row of whole outputs, that of its first sample."""
    samples = inputs.samples
    _, first = np.unique(inputs.rows, return_index=True)
    if centre == "problem":
        return samples.problems[first]
    if "author" not in store.samples.column_names:
        raise CriticError(
            f"{store.path}: has no authors, by whom training.centre is to centre features; name "
            "them in the samples' metadata.author and featurize again, or set it to none"
        )
    return rank_strings(store.samples["author"]).codes[samples.table_rows[first]]


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
