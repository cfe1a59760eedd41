"""What a sweep tries: the settings of a point of the grid, and the inputs that points share."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featurize.store import FeatureStore
from headtrain.features.inputs import (
    HeadInputs,
    InputColumns,
    LabelledSamples,
    choose_columns,
    read_head_inputs,
)
from headtrain.features.memory import FeatureMemory
from headtrain.head.model import FeatureNormaliser
from headtrain.pairs.pair_plan import read_excluded_problems
from headtrain.pairs.training_data import TrainingData, read_training_data
from headtrain.settings import DataSamplingSettings, TrainingSettings
from headtrain.sweep.halves import Halves
from headtrain.training.train import fit_normaliser
from headtrain.training.validation import Validation, read_validation, take_whole_problems

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One point of the grid."""

    varied: Mapping[str, str]
    """What the grid says of it, by the grid's keys."""
    training: TrainingSettings
    sampling: DataSamplingSettings
    run_config: Mapping[str, Any]
    """The whole configuration of this point."""

    @property
    def name(self) -> str:
        """`features=mean.12 training.dropout=0.1`."""
        return " ".join(f"{key}={value}" for key, value in self.varied.items()) or "as configured"


@dataclass(frozen=True, kw_only=True)
class SweepInputs:
    """Everything heads over the same tensors and pairs read, normalised alike."""

    columns: InputColumns
    data: TrainingData
    train: HeadInputs
    normaliser: FeatureNormaliser
    watch: Validation
    """Choosing half, at most val_n_samples of it: scored at every checkpoint."""
    choose: Validation
    report: Validation
    holdout: Validation | None


@dataclass(frozen=True, kw_only=True)
class JudgedSamples:
    """The samples whose values heads are judged by; no features."""

    choose: LabelledSamples
    report: LabelledSamples
    holdout: LabelledSamples | None


class SweepReader:
    """Reads the inputs of points, each only once while it is wanted."""

    def __init__(
        self,
        train: FeatureStore,
        valid: FeatureStore,
        halves: Halves,
        *,
        train_holdout: float,
        device: torch.device,
        memory: FeatureMemory | None = None,
    ) -> None:
        self.train = train
        self.valid = valid
        self.halves = halves
        self.train_holdout = train_holdout
        self.device = device
        self.memory = memory or FeatureMemory(device=device)
        self._data: dict[str, TrainingData] = {}
        self._inputs: dict[tuple[str, InputColumns, str], SweepInputs] = {}

    def columns(self, point: SweepPoint) -> InputColumns:
        """The tensors a point reads."""
        return choose_columns(self.train, point.training.features, point.training.likelihood)

    def data(self, point: SweepPoint) -> TrainingData:
        """The pairs of a point."""
        key = _key(point)
        if key not in self._data:
            self._data[key] = read_training_data(
                self.train,
                point.sampling,
                excluded=read_excluded_problems(point.sampling.pairwise),
                train_holdout=self.train_holdout,
            )
        return self._data[key]

    def inputs(self, point: SweepPoint) -> SweepInputs:
        """The inputs of a point; points of the same pairs, tensors and normaliser share them."""
        key = self._inputs_key(point)
        if key not in self._inputs:
            self._inputs[key] = self._read(point)
        return self._inputs[key]

    def judged(self, point: SweepPoint) -> JudgedSamples:
        """The samples in `inputs` that heads are judged by, without reading a feature."""
        data, seed = self.data(point), point.sampling.seed

        def whole(store: FeatureStore, samples: LabelledSamples) -> LabelledSamples:
            return take_whole_problems(store, samples, limit=None, seed=seed)

        return JudgedSamples(
            choose=whole(self.valid, self.halves.choose),
            report=whole(self.valid, self.halves.report),
            holdout=whole(self.train, data.held_out) if data.holdout else None,
        )

    def keep_only(self, points: list[SweepPoint]) -> None:
        """Forget the inputs of all other points."""
        wanted = {self._inputs_key(point) for point in points}
        self._inputs = {key: kept for key, kept in self._inputs.items() if key in wanted}

    def _inputs_key(self, point: SweepPoint) -> tuple[str, InputColumns, str]:
        return _key(point), self.columns(point), point.training.normaliser

    def _read(self, point: SweepPoint) -> SweepInputs:
        columns, data = self.columns(point), self.data(point)
        train = read_head_inputs(self.train, columns, samples=data.samples, memory=self.memory)
        normaliser = FeatureNormaliser(columns.width).to(self.device)
        fit_normaliser(normaliser, train.features, columns, point.training)
        normaliser.normalise_(train.features)

        def validation(store: FeatureStore, samples: Any, limit: int | None = None) -> Validation:
            return read_validation(
                store,
                columns,
                limit=limit,
                seed=point.sampling.seed,
                device=self.device,
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


def _key(point: SweepPoint) -> str:
    return repr(dataclasses.astuple(point.sampling))
