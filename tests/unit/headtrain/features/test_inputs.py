from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore
from featurize.store.samples import LIKELIHOOD_COLUMNS
from headtrain.features import inputs as inputs_module
from headtrain.features.inputs import choose_columns, read_head_inputs
from headtrain.features.samples import read_labelled_samples
from tests.support.synthetic_stores import replace_column, write_store

TENSORS = {"last.4": 8, "mean.2": 16}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store", tensors=TENSORS, likelihood=True)


def test_a_vector_is_the_chosen_tensors_in_order_then_the_likelihood(store: FeatureStore) -> None:
    columns = choose_columns(store, ["mean.2", "last.4"], likelihood=True)
    assert columns.width == 16 + 8 + 4
    inputs = read_head_inputs(store, columns)
    rows = torch.from_numpy(inputs.samples.feature_rows)
    vectors = inputs.features[torch.from_numpy(inputs.rows)]
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors[:, :16], store.gather("mean.2", rows))
    assert torch.equal(vectors[:, 16:24], store.gather("last.4", rows))
    for place, name in enumerate(LIKELIHOOD_COLUMNS, 24):
        expected = store.samples[name].to_numpy()[inputs.samples.table_rows]
        np.testing.assert_array_equal(vectors[:, place].numpy(), expected)


def test_by_default_all_columns_are_read(store: FeatureStore, tmp_path: Path) -> None:
    columns = choose_columns(store, None, None)
    assert (columns.tensors, columns.likelihood) == (("last.4", "mean.2"), True)
    assert not choose_columns(write_store(tmp_path / "plain"), None, None).likelihood
    assert choose_columns(store, [], None).width == 4


def test_columns_that_the_store_lacks_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(CriticError, match=r"no tensor 'mean.9', only last.4, mean.2"):
        choose_columns(store, ["mean.9"], None)
    plain = write_store(tmp_path / "plain")
    with pytest.raises(CriticError, match=r"training\.likelihood is true"):
        choose_columns(plain, None, True)
    with pytest.raises(CriticError, match=r"features .*likelihood"):
        choose_columns(plain, [], None)


def test_half_precision_features_become_float32(tmp_path: Path) -> None:
    store = write_store(tmp_path / "half", dtype=torch.bfloat16)
    inputs = read_head_inputs(store, choose_columns(store, None, None))
    assert inputs.features.dtype == torch.float32
    rows = torch.from_numpy(inputs.samples.feature_rows)
    expected = store.gather("mean.2", rows).float()
    assert torch.equal(inputs.features[torch.from_numpy(inputs.rows)], expected)


def test_samples_that_share_a_feature_row_share_one_vector(store: FeatureStore) -> None:
    rows = np.arange(96) // 2 * 2
    shared = replace_column(store, "feature_row", pa.array(rows))
    inputs = read_head_inputs(shared, choose_columns(shared, None, None))
    assert inputs.features.shape == (48, 28)
    expected = shared.gather("mean.2", torch.from_numpy(rows[inputs.samples.table_rows]))
    assert torch.equal(inputs.features[torch.from_numpy(inputs.rows), 8:24], expected)


def test_only_the_samples_asked_for_are_read(store: FeatureStore) -> None:
    some = read_labelled_samples(store).take(np.array([3, 50, 7]))
    inputs = read_head_inputs(store, choose_columns(store, None, None), samples=some)
    assert inputs.features.shape == (3, 28)
    expected = store.gather("mean.2", torch.from_numpy(some.feature_rows))
    assert torch.equal(inputs.features[torch.from_numpy(inputs.rows), 8:24], expected)


def test_reading_in_chunks_changes_nothing(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = choose_columns(store, None, None)
    whole = read_head_inputs(store, columns)
    monkeypatch.setattr(inputs_module, "ROWS_AT_ONCE", 7)
    assert torch.equal(read_head_inputs(store, columns).features, whole.features)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["last.4", "mean.2"])
def test_a_value_that_is_not_finite_names_its_sample_and_column(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tensor: str, value: float
) -> None:
    gather = store.gather

    def broken(name: str, rows: torch.Tensor) -> torch.Tensor:
        features = gather(name, rows).clone()
        if name == tensor:
            features[rows == 17, 5] = value
        return features

    monkeypatch.setattr(store, "gather", broken)
    with pytest.raises(CriticError, match=rf"{tensor} of sample 'task-00017' is {value}"):
        read_head_inputs(store, choose_columns(store, None, None))


def test_a_likelihood_that_is_not_finite_names_its_sample(store: FeatureStore) -> None:
    values = store.samples["logprob_min"].to_numpy().copy()
    values[40] = np.nan
    broken = replace_column(store, "logprob_min", pa.array(values, from_pandas=False))
    with pytest.raises(CriticError, match="logprob_min of sample 'task-00040' is nan"):
        read_head_inputs(broken, choose_columns(broken, None, None))
