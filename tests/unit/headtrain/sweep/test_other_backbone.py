"""Features of another backbone: the layers that take the place of others, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.settings import DataSamplingSettings, TrainingSettings
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.other_backbone import OtherBackbone, refuse_other_problems
from tests.support.synthetic_stores import replace_column, write_store


def of_backbone(store: FeatureStore, name: str, layers: int) -> FeatureStore:
    """The store as if another backbone had computed it."""
    backbone = {"name": name, "layers": layers}
    store.manifest = dataclasses.replace(store.manifest, recipe={"backbone": backbone})
    return store


def stores_of(folder: Path, name: str, layers: int, tensors: list[str]) -> OtherBackbone:
    widths = dict.fromkeys(tensors, 8)
    train, valid = (
        of_backbone(
            write_store(folder / name / split, tensors=widths, fingerprint=f"{name} {split}"),
            name,
            layers,
        )
        for split in ("train", "valid")
    )
    return OtherBackbone(train=train, valid=valid)


def point_of(*tensors: str) -> SweepPoint:
    training = TrainingSettings(features=list(tensors) or None)
    return SweepPoint(varied={}, training=training, sampling=DataSamplingSettings(), run_config={})


def test_a_layer_becomes_the_one_at_the_nearest_share_of_the_depth(tmp_path: Path) -> None:
    ours = stores_of(tmp_path, "ours", 30, ["mean.12", "mean.30", "last.24"])
    theirs = stores_of(tmp_path, "theirs", 18, ["mean.7", "mean.12", "mean.18", "last.9"])
    point = theirs.translate(point_of("mean.12", "last.24", "mean.30"), ours.train)
    assert point.training.features == ["mean.7", "last.9", "mean.18"]
    same = theirs.translate(point_of("last.24", "last.30"), ours.train)
    assert same.training.features == ["last.9"]


def test_settings_that_name_no_tensors_read_all(tmp_path: Path) -> None:
    theirs = stores_of(tmp_path, "theirs", 18, ["mean.7"])
    assert theirs.translate(point_of(), theirs.train).training.features is None


def test_a_pooling_that_the_other_backbone_has_not_is_named(tmp_path: Path) -> None:
    ours = stores_of(tmp_path, "ours", 30, ["delta.12"])
    theirs = stores_of(tmp_path, "theirs", 18, ["mean.7"])
    with pytest.raises(CriticError, match=r"theirs/train: .*delta\.12.*poolings"):
        theirs.translate(point_of("delta.12"), ours.train)


def test_the_same_backbone_is_refused(tmp_path: Path) -> None:
    ours = stores_of(tmp_path, "ours", 30, ["mean.12"])
    with pytest.raises(CriticError, match=r"the same backbone \(ours\)"):
        ours.check(ours.train, ours.valid)


@pytest.mark.parametrize("column", ["task_id", "is_correct"])
def test_other_samples_or_labels_are_refused_with_their_number(tmp_path: Path, column: str) -> None:
    ours = stores_of(tmp_path, "ours", 30, ["mean.12"])
    theirs = stores_of(tmp_path, "theirs", 18, ["mean.7"])
    theirs.check(ours.train, ours.valid)
    values = theirs.valid.samples[column].to_pylist()
    values[0] = "another" if column == "task_id" else not values[0]
    valid = replace_column(theirs.valid, column, pa.array(values))
    other = OtherBackbone(train=theirs.train, valid=of_backbone(valid, "theirs", 18))
    with pytest.raises(CriticError, match=r"theirs/valid: .*\(1 only there, 1 only here\)"):
        other.check(ours.train, ours.valid)


def test_problems_that_lose_their_pairs_with_one_backbone_are_refused() -> None:
    refuse_other_problems(np.arange(3), np.arange(3), "valid")
    with pytest.raises(CriticError, match=r"valid: other problems.*max_length"):
        refuse_other_problems(np.arange(3), np.array([0, 2]), "valid")
