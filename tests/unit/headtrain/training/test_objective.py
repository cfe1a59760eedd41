"""Train features: centred by problem or author, and prefixes of outputs from their segments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import HeadInputs, choose_head_columns
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import rank_strings, read_labelled_samples
from headtrain.head.model import FeatureNormaliser
from headtrain.head.spec import HeadSpec
from headtrain.settings import TrainingSettings
from headtrain.training.objective import make_objective, read_train_inputs
from tests.support.head_jobs import make_plan
from tests.support.synthetic_stores import write_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return write_store(tmp_path_factory.mktemp("stores") / "train", segments=4, authors=True)


def read(store: FeatureStore, **settings: Any) -> HeadInputs:
    training = TrainingSettings(**{"normaliser": "none", "likelihood": False} | settings)
    spec = HeadSpec.of(choose_head_columns(store, training), training)
    return read_train_inputs(
        store,
        read_labelled_samples(store),
        spec,
        training,
        normaliser=FeatureNormaliser(spec.columns.width),
        memory=FeatureMemory(device=CPU),
    )


@pytest.mark.parametrize("centre", ["problem", "author"])
def test_centring_leaves_nothing_that_a_group_shares_and_keeps_the_mean(
    store: FeatureStore, centre: str
) -> None:
    plain = read(store, value_head_type="linear")
    inputs = read(store, value_head_type="linear", centre=centre)
    groups = inputs.samples.problems
    if centre == "author":
        groups = rank_strings(store.samples["author"]).codes[inputs.samples.table_rows]
    features = inputs.features[inputs.rows]
    means = torch.stack([features[groups == group].mean(dim=0) for group in np.unique(groups)])
    assert len(means) == (12 if centre == "problem" else 4)
    whole = plain.features.mean(dim=0).expand_as(means)
    torch.testing.assert_close(means, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        features[0] - features[4], (plain.features[plain.rows][0] - plain.features[plain.rows][4])
    )  # of one problem and one author


def test_authors_that_nobody_named_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CriticError, match=r"has no authors, by whom training.centre"):
        read(write_store(tmp_path / "plain"), value_head_type="linear", centre="author")


@pytest.mark.parametrize("settings", [{"features": ["mean.2"]}, {"value_head_type": "gated"}])
def test_prefixes_are_the_first_segments_and_follow_the_whole_outputs(
    store: FeatureStore, settings: dict[str, Any]
) -> None:
    plain = read(store, **settings)
    inputs = read(store, prefixes=(0.25, 0.5, 1.0), **settings)
    num_rows = len(plain.features)
    assert inputs.prefixes == (num_rows, 2 * num_rows)
    assert torch.equal(inputs.features[:num_rows], plain.features)
    first, half = inputs.features[num_rows:].split(num_rows)
    segments = read(store, features=["segments.2", "segment_tokens"]).features
    states, tokens = segments[:, :-4].view(num_rows, 4, 8), segments[:, -4:]
    if "features" in settings:
        torch.testing.assert_close(first, states[:, 0])
        weights = tokens[:, :2] / tokens[:, :2].sum(dim=1, keepdim=True)
        expected = (weights[:, :, None] * states[:, :2]).sum(dim=1)
        torch.testing.assert_close(half, expected)
    else:
        assert torch.equal(first[:, -4], tokens[:, 0])
        assert first[:, -3:].eq(0).all()
        assert torch.equal(half[:, -4:-2], tokens[:, :2])
        assert half[:, -2:].eq(0).all()


def test_the_normaliser_is_that_of_whole_outputs(store: FeatureStore) -> None:
    plain = read(store, features=["mean.2"], normaliser="standardize")
    inputs = read(store, features=["mean.2"], normaliser="standardize", prefixes=(0.5, 1.0))
    assert torch.equal(inputs.features[: len(plain.features)], plain.features)


@pytest.mark.parametrize("settings", [{}, {"batching": "problems"}, {"loss_type": "pointwise"}])
def test_every_prefix_has_the_terms_of_the_whole_outputs(
    store: FeatureStore, settings: dict[str, Any]
) -> None:
    training = TrainingSettings(**settings)
    inputs = read(store, features=["mean.2"], prefixes=(0.25, 1.0))
    plan = make_plan(inputs)
    whole = make_objective(read(store, features=["mean.2"]), plan, training)
    both = make_objective(inputs, plan, training)
    assert both.num_items == 2 * whole.num_items
    later = both.terms_of(np.arange(whole.num_items, both.num_items))
    expected = whole.terms_of(np.arange(whole.num_items))
    assert np.array_equal(later.first, expected.first + inputs.num_whole)
    assert np.array_equal(later.weights, expected.weights)
    if later.second is not None and expected.second is not None:
        assert np.array_equal(later.second, expected.second + inputs.num_whole)
    if later.labels is not None and expected.labels is not None:
        assert np.array_equal(later.labels, expected.labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ["segments.2"]}, "reads segments.2; only means"),
        ({"features": ["segments.2", "segment_tokens"]}, "reads segments.2; only means"),
    ],
)
def test_prefixes_of_what_segments_do_not_have_are_refused(
    store: FeatureStore, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CriticError, match=message):
        read(store, prefixes=(0.5, 1.0), **settings)


def test_a_store_without_segments_is_refused(tmp_path: Path) -> None:
    plain = write_store(tmp_path / "plain")
    with pytest.raises(CriticError, match="no segments of outputs; featurize with"):
        read(plain, prefixes=(0.5, 1.0))
    with pytest.raises(CriticError, match=r"featurize again with featurize\.segments"):
        read(plain, value_head_type="attention")


def test_a_head_on_segments_reads_nothing_else(store: FeatureStore) -> None:
    with pytest.raises(CriticError, match=r"'mean.2': value_head_type 'gated' reads segments"):
        read(store, value_head_type="gated", features=["mean.2"])
    training = TrainingSettings(value_head_type="gated", features=["segments.4"])
    assert choose_head_columns(store, training).tensors == ("segments.4", "segment_tokens")
    assert choose_head_columns(store, TrainingSettings()).tensors == ("mean.2", "mean.4")
