"""The inputs of a sweep: validation problems in two halves, and features that points share."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import HeadInputs, InputColumns, choose_head_columns
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.model import FeatureNormaliser
from headtrain.head.spec import HeadSpec
from headtrain.pairs.holdout import labelled_problems
from headtrain.pairs.training_data import TrainingData, read_training_data
from headtrain.sweep.grid import SweepPoint
from headtrain.training.objective import read_train_inputs
from headtrain.training.validation import Validation, read_validation

logger = logging.getLogger(__name__)

InputsKey = tuple[str, InputColumns, tuple[str, ...]]
"""Data sampling settings, columns, and how the features are normalised."""


@dataclass(frozen=True, kw_only=True)
class ValidationSplit:
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

    columns: InputColumns
    data: TrainingData
    train: HeadInputs
    normaliser: FeatureNormaliser
    watch: Validation
    """At most val_n_samples of the choosing half, for early stopping."""
    choose: Validation
    report: Validation
    holdout: Validation | None


class SweepReader:
    """Reads the inputs of points and keeps those that are needed again."""

    def __init__(
        self,
        train: FeatureStore,
        valid: FeatureStore,
        *,
        train_holdout: float,
        device: torch.device,
        memory: FeatureMemory | None = None,
    ) -> None:
        self.train = train
        self.valid = valid
        self.halves = split_validation(valid)
        self.train_holdout = train_holdout
        self.device = device
        self.memory = memory or FeatureMemory(device=device)
        self._data: dict[str, TrainingData] = {}
        self._inputs: dict[InputsKey, SweepInputs] = {}

    def columns(self, point: SweepPoint) -> InputColumns:
        """Return the store columns a point reads."""
        return choose_head_columns(self.train, point.training)

    def data(self, point: SweepPoint) -> TrainingData:
        """Return the pairs of a point."""
        key = _sampling_key(point)
        if key not in self._data:
            self._data[key] = read_training_data(
                self.train,
                point.sampling,
                train_holdout=self.train_holdout,
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
        columns, data = self.columns(point), self.data(point)
        normaliser = FeatureNormaliser(columns.width).to(self.device)
        train = read_train_inputs(
            self.train,
            data.samples,
            HeadSpec.of(columns, point.training),
            point.training,
            normaliser=normaliser,
            memory=self.memory,
        )

        def validation(
            store: FeatureStore, samples: LabelledSamples, limit: int | None = None
        ) -> Validation:
            return read_validation(
                store,
                columns,
                limit=limit,
                seed=point.sampling.seed,
                samples=samples,
                normaliser=normaliser,
                memory=self.memory,
            )

        inputs = SweepInputs(
            columns=columns,
            data=data,
            train=train,
            normaliser=normaliser,
            watch=validation(self.valid, self.halves.choose, point.sampling.val_n_samples),
            choose=validation(self.valid, self.halves.choose),
            report=validation(self.valid, self.halves.report),
            holdout=validation(self.train, data.held_out) if data.holdout else None,
        )
        level = logging.INFO if self.memory.num_mapped else logging.DEBUG
        logger.log(level, "%s", self.memory.describe())
        return inputs


def _sampling_key(point: SweepPoint) -> str:
    return repr(dataclasses.astuple(point.sampling))
