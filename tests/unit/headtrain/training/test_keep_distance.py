"""Keeping the distance to train beside a head that is there."""

from pathlib import Path

import numpy as np
import pytest

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.export.head_folder import copy_head
from headtrain.features.inputs import read_head_inputs
from headtrain.head.checkpoint import load_head, write_head
from headtrain.head.distance import DISTANCE_FILE
from headtrain.scoring.scorer import Scorer
from headtrain.training.keep_distance import keep_distance
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import make_train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores `train` and `valid`, and a head trained without some problems."""
    base = tmp_path_factory.mktemp("kept")
    make_train(base)(train_holdout=0.25)
    return base


def test_it_is_fitted_to_the_problems_the_head_was_trained_on(folder: Path) -> None:
    train = FeatureStore.open(folder / "train")
    path = folder / "run/best"
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    kept = keep_distance(path, train)
    assert kept.num_problems == 9  # of 12, a quarter held out
    assert {file.name: file.read_bytes() for file in path.iterdir()} == files | {
        DISTANCE_FILE: (path / DISTANCE_FILE).read_bytes()
    }
    head = load_head(path)
    found = head.read_distance()
    assert found is not None
    inputs = read_head_inputs(train, head.record.columns)
    expected = found.measure(inputs.features.numpy())[inputs.rows]
    shares = head.distances(train, found)[inputs.samples.table_rows]
    assert shares == pytest.approx(expected, abs=1e-6)


def test_a_file_that_fits_is_kept_and_a_damaged_one_replaced(folder: Path) -> None:
    train, path = FeatureStore.open(folder / "train"), folder / "run/best"
    keep_distance(path, train)
    state = (path / DISTANCE_FILE).stat()
    keep_distance(path, train)
    assert (path / DISTANCE_FILE).stat().st_mtime_ns == state.st_mtime_ns
    content = (path / DISTANCE_FILE).read_bytes()
    (path / DISTANCE_FILE).write_bytes(content[:50])
    keep_distance(path, train)
    assert (path / DISTANCE_FILE).read_bytes() == content


def test_other_features_than_the_heads_are_refused(folder: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", seed=5, likelihood=True, fingerprint="another")
    path = folder / "run/final"
    with pytest.raises(CriticError, match=r"was trained on the features .*name the train set"):
        keep_distance(path, other)
    assert not (path / DISTANCE_FILE).exists()


def test_a_copied_head_and_an_uploaded_one_keep_it(folder: Path, tmp_path: Path) -> None:
    train, path = FeatureStore.open(folder / "train"), folder / "run/best"
    (path / DISTANCE_FILE).unlink(missing_ok=True)
    kept = keep_distance(path, train, upload_uri=f"file://{tmp_path}/bucket")
    row = np.zeros((1, load_head(path).record.columns.width), np.float32)
    copy = copy_head(load_head(path), tmp_path / "copy")
    for head in (load_head(copy), load_head(f"file://{tmp_path}/bucket/run/best")):
        found = head.read_distance()
        assert found is not None
        assert found.measure(row) == kept.measure(row)


def test_it_goes_with_the_weights_it_was_kept_for(folder: Path, tmp_path: Path) -> None:
    copy = copy_head(load_head(folder / "run/best"), tmp_path / "head")
    keep_distance(copy, FeatureStore.open(folder / "train"))
    head = load_head(folder / "run/final")
    write_head(copy, head.model, head.record)
    assert not (copy / DISTANCE_FILE).exists()


def test_a_scorer_that_needs_it_refuses_a_head_without(folder: Path, tmp_path: Path) -> None:
    head = load_head(folder / "run/final")
    assert Scorer(head).distance is None
    with pytest.raises(CriticError, match="was not kept with this head"):
        Scorer(head, has_distance=True)
