"""The feature store returns what was written, and refuses another recipe and NaN."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import read_json
from featurize.store import FeatureStore
from featurize.store.manifest import read_manifest
from featurize.store.samples import LIKELIHOOD_COLUMNS
from tests.support.unit_features import (
    RECIPE,
    TENSORS,
    make_unit,
    make_writer,
    read_tree,
    write_missing,
)


def write_units(path: Path, units, **options) -> FeatureStore:
    writer = make_writer(path, num_units=len(units), **options)
    writer.begin()
    for number, unit in enumerate(units):
        writer.write_unit(number, unit, {"samples": unit.samples.num_rows})
    writer.finish({"samples": 5})
    return FeatureStore.open(path)


def test_tensors_and_samples_come_back_as_they_were_written(tmp_path):
    units = [make_unit(0), make_unit(1, rows=(0,)), make_unit(2, rows=(1, 0, 1))]
    store = write_units(tmp_path, units)
    assert store.tensor_names == ["last.2", "mean.2"]
    assert store.num_feature_rows == 3 + 1 + 2
    for name in TENSORS:
        expected = torch.cat([unit.tensors[name] for unit in units])
        assert torch.equal(store.read(name), expected)
        assert store.read(name).dtype == torch.float32
    samples = store.samples.to_pydict()
    assert samples.pop("feature_row") == [0, 1, 1, 2, 3, 5, 4, 5]
    for column, values in samples.items():
        assert values == [v for unit in units for v in unit.samples[column].to_pylist()]


def test_the_manifest_describes_the_store_and_its_files(tmp_path):
    store = write_units(tmp_path, [make_unit(0), make_unit(1, rows=(0,))])
    manifest = store.manifest
    assert (manifest.fingerprint, manifest.recipe_fingerprint) == ("content", "recipe")
    assert (manifest.recipe, manifest.tensors, manifest.dtype) == (RECIPE, TENSORS, "F32")
    assert manifest.counts == {"samples": 5}
    assert [(u.number, u.samples, u.feature_rows) for u in manifest.units] == [(0, 4, 3), (1, 1, 1)]
    for unit in manifest.units:
        for name, file in unit.files.items():
            assert (tmp_path / "units" / name).stat().st_size == file["bytes"]
    assert read_manifest(tmp_path) == manifest


def test_likelihood_columns_come_back_in_float32(tmp_path):
    store = write_units(tmp_path, [make_unit(0, likelihood=True)])
    assert store.samples.column_names[-4:] == list(LIKELIHOOD_COLUMNS)
    for name in LIKELIHOOD_COLUMNS:
        assert store.samples[name].to_pylist() == [0.0, -1.0, -2.0, -3.0]
        assert str(store.samples.schema.field(name).type) == "float"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_gathered_in_the_requested_order_and_the_stored_dtype(tmp_path, dtype):
    units = [make_unit(0, dtype=dtype), make_unit(1, rows=(0, 1), dtype=dtype)]
    store = write_units(tmp_path, units)
    rows = torch.tensor([4, 0, 0, 3, 2, 4])
    whole = store.read("mean.2").clone()
    gathered = store.gather("mean.2", rows)
    assert torch.equal(gathered, whole[rows])
    assert gathered.dtype == dtype
    gathered.zero_()  # a copy
    assert torch.equal(store.read("mean.2"), whole)
    empty = store.gather("mean.2", torch.tensor([], dtype=torch.int64))
    assert (empty.shape, empty.dtype) == ((0, TENSORS["mean.2"]), dtype)


@pytest.mark.parametrize("row", [-1, 3, 2**40])
def test_a_row_outside_the_store_is_refused(tmp_path, row):
    store = write_units(tmp_path, [make_unit(0)])
    with pytest.raises(IndexError, match=r"must be in 0\.\.2"):
        store.gather("mean.2", torch.tensor([0, row]))


def test_an_unknown_tensor_is_refused_with_the_known_ones(tmp_path):
    store = write_units(tmp_path, [make_unit(0)])
    for read in (store.read, lambda name: store.gather(name, torch.tensor([0]))):
        with pytest.raises(FeatureStoreError, match=r"'max\.1', only last\.2, mean\.2"):
            read("max.1")


def test_a_folder_without_features_is_refused_with_the_command_that_makes_them(tmp_path):
    for path, split in ((tmp_path / "valid", "valid"), (tmp_path, "SPLIT")):
        with pytest.raises(FeatureStoreError, match=rf"no features.*--split {split}`"):
            FeatureStore.open(path)
    assert read_manifest(tmp_path) is None


def test_an_unfinished_store_is_refused(tmp_path):
    writer = make_writer(tmp_path)
    writer.begin()
    writer.write_unit(0, make_unit(0), {})
    with pytest.raises(FeatureStoreError, match="unfinished"):
        FeatureStore.open(tmp_path)
    with pytest.raises(FeatureStoreError, match=r"unit 1 is missing"):
        writer.finish({})
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipe": RECIPE | {"layers": [1], "backbone": "big"}}, "another backbone, layers;"),
        ({"recipe": RECIPE | {"new": 1}}, "another new;"),
        ({"recipe": {"backbone": "tiny", "layers": [2]}}, "another poolings;"),
        ({}, "another dataset, selection"),
    ],
)
def test_another_plan_is_refused_with_the_keys_that_differ(tmp_path, changes, named):
    write_missing(tmp_path)
    before = read_tree(tmp_path)
    with pytest.raises(FeatureStoreError, match=re.escape(named)) as caught:
        make_writer(tmp_path, fingerprint="other", **changes).begin()
    assert "--overwrite" in str(caught.value)
    assert read_tree(tmp_path) == before


def test_the_plan_of_a_run_that_finished_no_unit_is_replaced(tmp_path):
    make_writer(tmp_path).begin()
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "00000.safetensors").write_bytes(b"half")
    other = make_writer(tmp_path, num_units=1, fingerprint="other", recipe={"layers": [9]})
    other.begin()
    assert read_json(tmp_path / "plan.json") == {"format_version": 1, **other.plan}
    assert other.finished_units() == {}


def test_units_of_another_plan_are_redone_even_when_the_plan_is_lost(tmp_path):
    write_missing(tmp_path)
    (tmp_path / "plan.json").unlink()
    assert sorted(make_writer(tmp_path).finished_units()) == [0, 1]
    assert make_writer(tmp_path, fingerprint="other").finished_units() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_or_inf_is_refused_with_the_sample(tmp_path, value):
    unit = make_unit(1, rows=(2, 0, 1, 1))
    unit.tensors["mean.2"][1, -1] = value
    with pytest.raises(FeatureStoreError, match=r"in mean\.2 of sample 'task-1-2' \(1 such rows"):
        make_writer(tmp_path).write_unit(1, unit, {})
    assert read_tree(tmp_path) == {}


def test_an_overflow_of_float16_is_refused_with_the_setting_to_change(tmp_path):
    unit = make_unit(0)
    unit.tensors["last.2"][2, 0] = 70_000.0
    unit.tensors.update({name: tensor.half() for name, tensor in unit.tensors.items()})
    with pytest.raises(FeatureStoreError, match=r"'task-0-3'.*float16.*featurize\.storage_dtype"):
        make_writer(tmp_path).write_unit(0, unit, {})


@pytest.mark.parametrize("column", LIKELIHOOD_COLUMNS)
def test_a_likelihood_of_nan_or_inf_is_refused_with_the_sample(tmp_path, column):
    unit = make_unit(0, likelihood=True)
    place = unit.samples.schema.get_field_index(column)
    values = np.array([0.0, 1.0, np.inf, np.nan], np.float32)
    samples = unit.samples.set_column(place, unit.samples.schema.field(place), [values])
    with pytest.raises(FeatureStoreError, match=rf"{column} .*'task-0-2'"):
        make_writer(tmp_path).write_unit(0, replace(unit, samples=samples), {})
