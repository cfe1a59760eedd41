"""The features that another backbone has of the same samples, and what a head reads of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from featurize.arrays import Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.samples import read_labelled_samples
from headtrain.sweep.grid import SweepPoint


@dataclass(frozen=True, kw_only=True)
class OtherBackbone:
    """The stores of another backbone."""

    train: FeatureStore
    valid: FeatureStore

    @property
    def name(self) -> str:
        """The name of the backbone."""
        backbone = _backbone(self.train)
        return str(backbone.get("name", backbone.get("digest", "")))

    @cached_property
    def fingerprints(self) -> str:
        """Identify the features."""
        return "+".join(one.manifest.fingerprint for one in (self.train, self.valid))

    @classmethod
    def open(
        cls,
        folder: Path,
        train: FeatureStore,
        valid: FeatureStore,
        points: Iterable[SweepPoint],
    ) -> Self:
        """Open the features in a folder, and check that any of these points can be trained on them.

        Raises:
            CriticError: there are none, they are of the same backbone, or they lack samples, labels
                or poolings.
        """
        found = cls(
            train=FeatureStore.open(folder / "train"), valid=FeatureStore.open(folder / "valid")
        )
        found.check(train, valid)
        for point in points:
            found.translate(point, train)
        return found

    def check(self, train: FeatureStore, valid: FeatureStore) -> None:
        """Check that these stores are of another backbone and have the samples of both splits."""
        if _backbone(self.train) == _backbone(train):
            raise CriticError(
                f"{self.train.path}: has features of the same backbone ({self.name}) as "
                f"{train.path}; name the features of another one"
            )
        for theirs, ours in ((self.train, train), (self.valid, valid)):
            _refuse_other_samples(theirs, ours)

    def translate(self, point: SweepPoint, train: FeatureStore) -> SweepPoint:
        """Return the settings of a point with the tensors of this backbone, of the same poolings.

        A layer becomes the stored one at the nearest share of the depth. Settings that name no
        tensors read all.

        Raises:
            CriticError: this backbone has no tensor of a pooling.
        """
        named = point.training.features
        if named is None:
            return point
        own = list(dict.fromkeys(self._translated(name, train) for name in named))
        training = dataclasses.replace(point.training, features=own)
        return dataclasses.replace(point, training=training)

    def _translated(self, name: str, train: FeatureStore) -> str:
        kind, _, layer = name.partition(".")
        if not layer.isdigit():
            return name
        stored = [one.partition(".") for one in self.train.manifest.tensors]
        layers = [int(at) for own, _, at in stored if own == kind and at.isdigit()]
        if not layers:
            raise CriticError(
                f"{self.train.path}: has no tensor {kind}, but the winner reads {name}; featurize "
                f"it with the same featurize.poolings and featurize.segments"
            )
        depth, own_depth = _depth(train), _depth(self.train)
        wanted = int(layer) / depth * own_depth if depth and own_depth else int(layer)
        return f"{kind}.{min(layers, key=lambda one: (abs(one - wanted), one))}"


def refuse_other_problems(theirs: Ints, ours: Ints, name: str) -> None:
    """Check that both backbones leave the same problems with pairs, so that they can be paired.

    Raises:
        CriticError: outputs that are cut differently leave other pairs.
    """
    if not np.array_equal(theirs, ours):
        raise CriticError(
            f"{name}: other problems have pairs than with these features, because outputs are cut "
            "at other places; raise dataset.max_length and featurize with both backbones again"
        )


def _refuse_other_samples(theirs: FeatureStore, ours: FeatureStore) -> None:
    found, wanted = ({*_labels(store)} for store in (theirs, ours))
    if found != wanted:
        raise CriticError(
            f"{theirs.path}: has other labelled samples than {ours.path} ({len(found - wanted):,} "
            f"only there, {len(wanted - found):,} only here); featurize the same dataset, and with "
            "the same --limit-problems"
        )


def _labels(store: FeatureStore) -> list[tuple[str, str, bool]]:
    samples = read_labelled_samples(store)
    rows = store.samples.select(["task_id", "problem_id"]).take(samples.table_rows)
    names = (rows[name].to_pylist() for name in ("task_id", "problem_id"))
    return list(zip(*names, samples.is_correct.tolist(), strict=True))


def _backbone(store: FeatureStore) -> Mapping[str, Any]:
    found = store.manifest.recipe.get("backbone", "")
    return found if isinstance(found, Mapping) else {"name": str(found)}


def _depth(store: FeatureStore) -> int:
    """Number of layers of the backbone; 0 if the store does not say."""
    return int(_backbone(store).get("layers", 0))
