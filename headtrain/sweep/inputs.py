"""The inputs of a sweep: halves of valid, features that points share, and subsets of train."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from featurize.arrays import Floats, Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import HeadInputs, InputColumns, choose_head_columns
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.model import FeatureNormaliser
from headtrain.head.spec import HeadSpec
from headtrain.metrics.groups import ranks_within
from headtrain.pairs.plan import TrainingData, read_training_data
from headtrain.pairs.rows import labelled_problems
from headtrain.settings import EvaluationSettings
from headtrain.sweep.grid import SweepPoint
from headtrain.training.objective import read_train_inputs
from headtrain.training.validation import read_validation

logger = logging.getLogger(__name__)

InputsKey = tuple[str, InputColumns, tuple[str, ...]]
"""Data sampling settings, columns, and how the features are normalised."""


@dataclass(frozen=True, kw_only=True)
class SweepSetup:
    """What all heads of a sweep and of its curve have in common."""

    train: FeatureStore
    valid: FeatureStore
    seeds: Sequence[int]
    """Of the heads at each point."""
    evaluation: EvaluationSettings
    save_checkpoint_every: float | None
    """Epochs between two validations; None: only at the end."""
    device: torch.device
    mixed_precision: bool
    cache_dir: Path
    """Has the features that do not fit into memory, in a file."""

    def memory(self, point: SweepPoint) -> FeatureMemory:
        """Make the memory for the features, of the size that a point allows."""
        most_gb = point.training.max_feature_memory_gb
        return FeatureMemory(device=self.device, folder=self.cache_dir, most_gb=most_gb)

    @cached_property
    def halves(self) -> "ValidationSplit":
        """The halves of valid."""
        return split_validation(self.valid)


class ValidationSplit(NamedTuple):
    """The labelled validation samples in two halves of whole problems.

    The best of many heads on a set of problems looks better there than it is. Its accuracy on
    problems that were not used to choose it has no such bias.
    """

    choose: LabelledSamples
    """Selects the winner."""
    report: LabelledSamples
    """Measures the winner."""


def split_validation(store: FeatureStore) -> ValidationSplit:
    """Split the problems that have both labels, alternately in the order of the hash of their id.

    Raises:
        CriticError: the store has fewer than two such problems.
    """
    names = sorted(labelled_problems(store.samples), key=_hash)
    if len(names) < 2:
        raise CriticError(
            f"{store.path}: a sweep needs two problems with both labels, one to choose by and one "
            f"to report on, there is {len(names)}; name another dataset.validation"
        )
    samples = read_labelled_samples(store)
    ids = np.array(store.samples["problem_id"].to_pylist(), dtype=object)[samples.table_rows]
    choose, report = (
        samples.take(np.array([name in half for name in ids], bool))
        for half in (set(names[::2]), set(names[1::2]))
    )
    return ValidationSplit(choose=choose, report=report)


def _hash(problem_id: str) -> str:
    return hashlib.sha256(f"half of valid: {problem_id}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SweepInputs:
    """The inputs of heads with the same tensors, pairs and normaliser."""

    data: TrainingData
    train: HeadInputs
    normaliser: FeatureNormaliser
    watch: HeadInputs
    """At most val_n_samples of the choosing half, for early stopping."""
    choose: HeadInputs
    report: HeadInputs
    holdout: HeadInputs | None


class SweepReader:
    """Reads the inputs of points and keeps those that are needed again."""

    def __init__(self, setup: SweepSetup, memory: FeatureMemory) -> None:
        self.setup = setup
        self.train = setup.train
        self.memory = memory
        self._data: dict[str, TrainingData] = {}
        self._inputs: dict[InputsKey, SweepInputs] = {}

    def columns(self, point: SweepPoint) -> InputColumns:
        """Return the store columns a point reads."""
        return choose_head_columns(self.train, point.training)

    def spec(self, point: SweepPoint) -> HeadSpec:
        """Return the shape of a point's heads."""
        return HeadSpec.of(self.columns(point), point.training)

    def data(self, point: SweepPoint) -> TrainingData:
        """Return the pairs of a point."""
        key = _sampling_key(point)
        if key not in self._data:
            self._data[key] = read_training_data(
                self.train, point.sampling, train_holdout=self.setup.evaluation.train_holdout
            )
        return self._data[key]

    def inputs(self, point: SweepPoint) -> SweepInputs:
        """Return the inputs of a point, the same object for points that share them."""
        key = self._key(point)
        if key not in self._inputs:
            self._inputs[key] = self._read(point)
        return self._inputs[key]

    def keep_only(self, points: Iterable[SweepPoint]) -> None:
        """Free the inputs of all other points."""
        wanted = {self._key(point) for point in points}
        self._inputs = {key: inputs for key, inputs in self._inputs.items() if key in wanted}

    def _key(self, point: SweepPoint) -> InputsKey:
        training = point.training
        is_on_segments, prefixes = str(training.is_on_segments), str(training.prefixes)
        how = (training.normaliser, training.centre, prefixes, is_on_segments)
        return _sampling_key(point), self.columns(point), how

    def _read(self, point: SweepPoint) -> SweepInputs:
        columns, data, halves = self.columns(point), self.data(point), self.setup.halves
        normaliser = FeatureNormaliser(columns.width).to(self.setup.device)
        train = read_train_inputs(
            self.train,
            data.samples,
            self.spec(point),
            point.training,
            normaliser=normaliser,
            memory=self.memory,
        )

        def validation(samples: LabelledSamples, limit: int | None = None) -> HeadInputs:
            return read_validation(
                self.train if samples is data.held_out else self.setup.valid,
                columns,
                limit=limit,
                seed=point.sampling.seed,
                samples=samples,
                normaliser=normaliser,
                memory=self.memory,
            )

        inputs = SweepInputs(
            data=data,
            train=train,
            normaliser=normaliser,
            watch=validation(halves.choose, point.sampling.val_n_samples),
            choose=validation(halves.choose),
            report=validation(halves.report),
            holdout=validation(data.held_out) if data.holdout else None,
        )
        level = logging.INFO if self.memory.num_mapped else logging.DEBUG
        logger.log(level, "%s", self.memory.describe())
        return inputs


def _sampling_key(point: SweepPoint) -> str:
    return repr(dataclasses.astuple(point.sampling))


def take_problems(samples: LabelledSamples, count: int, seed: int) -> Ints:
    """Return the table rows of `count` random problems; fewer problems are a subset of more."""
    problems = np.unique(samples.problems)
    chosen = np.random.default_rng(seed).permutation(problems)[:count]
    return samples.table_rows[np.isin(samples.problems, chosen)]


def take_candidates(samples: LabelledSamples, count: int, seed: int) -> Ints:
    """Return the table rows of at most `count` random samples of every problem, nested.

    Correct and incorrect samples are taken in turn while both last, so that two make a pair.
    """
    keys = np.random.default_rng(seed).random(len(samples))
    within_label = _ranks(samples.problems * 2 + samples.is_correct, keys)
    turn = 2 * within_label + ~samples.is_correct
    return samples.table_rows[_ranks(samples.problems, turn) < count]


def with_rows(store: FeatureStore, table_rows: Ints) -> FeatureStore:
    """Return the store with these rows of its sample table alone, and without planned pairs."""
    return store.with_samples(store.samples.take(np.sort(table_rows)))


def _ranks(groups: Ints, keys: Floats | Ints) -> Ints:
    """Rank of each key within its group, from 0, [n]."""
    order = np.lexsort((keys, groups))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = ranks_within(np.unique(groups, return_counts=True)[1])
    return ranks
