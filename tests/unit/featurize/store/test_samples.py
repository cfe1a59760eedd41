"""The joined sample table of a store with many units: read if intact, and rewritten if not."""

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.errors import FeatureStoreError
from featurize.io.files import read_json, write_json
from featurize.io.remote import RemoteFolder
from featurize.store import FeatureStore
from featurize.store.inspect import inspect_store
from featurize.store.manifest import SAMPLES_FILE, lost_files, read_manifest
from featurize.store.samples import PlannedPairs, mark_pairs, read_pairs
from featurize.store.writer import UnitFeatures
from tests.support.unit_features import (
    damage,
    make_unit,
    make_writer,
    put,
    read_tree,
    read_uri,
    write_missing,
)

NUM_UNITS = 5
TABLE = f"units/{SAMPLES_FILE}"


@pytest.fixture(autouse=True)
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Join the tables of five units, two at a time."""
    monkeypatch.setattr("featurize.store.samples.TABLES_AT_ONCE", 2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_missing(tmp_path / "train", num_units=NUM_UNITS)
    return tmp_path / "train"


def expected_samples() -> pa.Table:
    """The tables of all units; feature rows count through the store, three per unit."""
    tables = []
    for number in range(NUM_UNITS):
        table = make_unit(number).samples
        rows = pa.array(table["feature_row"].to_numpy() + 3 * number)
        tables.append(
            table.set_column(table.column_names.index("feature_row"), "feature_row", rows)
        )
    return pa.concat_tables(tables)


def remove_tables_of_units(store: Path) -> None:
    for number in range(NUM_UNITS):
        (store / f"units/{number:05d}.parquet").unlink()


def test_the_joined_table_has_the_samples_of_all_units(store: Path) -> None:
    remove_tables_of_units(store)
    assert FeatureStore.open(store).samples.equals(expected_samples())


def test_a_store_of_few_units_has_no_joined_table(tmp_path: Path) -> None:
    write_missing(tmp_path, num_units=2)
    assert TABLE not in read_tree(tmp_path)
    store = FeatureStore.open(tmp_path)
    assert store.manifest.sample_table is None
    assert store.samples.num_rows == 8


@pytest.mark.parametrize("how", ["lost", "torn", "flipped"])
def test_the_tables_of_the_units_are_read_if_the_joined_one_is_damaged(
    store: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store / TABLE, how)
    assert FeatureStore.open(store).samples.equals(expected_samples())
    [message] = caplog.messages
    assert message.startswith(f"{store}: damaged ({SAMPLES_FILE}: ")
    assert "--repair" in message


def test_a_store_of_an_older_version_without_a_joined_table_is_read(store: Path) -> None:
    manifest = read_json(store / "manifest.json")
    assert manifest.pop("sample_table").keys() == {"bytes", "checksum"}
    write_json(store / "manifest.json", manifest)
    (store / TABLE).unlink()
    assert FeatureStore.open(store).samples.equals(expected_samples())


def test_planned_pairs_survive_the_join(tmp_path: Path) -> None:
    whole = mark_pairs(
        expected_samples(),
        PlannedPairs(correct=np.array([0, 8]), incorrect=np.array([1, 9]), record={"seed": 7}),
    )
    writer = make_writer(tmp_path, num_units=NUM_UNITS)
    writer.begin()
    for number in range(NUM_UNITS):
        unit = make_unit(number)
        part = whole.slice(4 * number, 4)
        position = part.column_names.index("feature_row")
        part = part.set_column(position, "feature_row", unit.samples["feature_row"])
        writer.write_unit(number, UnitFeatures(tensors=unit.tensors, samples=part), {})
    writer.finish({})
    remove_tables_of_units(tmp_path)
    pairs = read_pairs(FeatureStore.open(tmp_path).samples)
    assert pairs is not None
    assert (pairs.correct.tolist(), pairs.incorrect.tolist()) == ([0, 8], [1, 9])
    assert pairs.record == {"seed": 7}


@pytest.mark.parametrize("how", ["lost", "torn", "flipped"])
def test_a_damaged_table_is_found_by_inspect_and_rewritten(store: Path, how: str) -> None:
    whole = read_tree(store)
    inspect_store(store, verify=True).check()
    damage(store / TABLE, how)
    report = inspect_store(store, verify=True)
    assert report.damaged == {}
    assert report.describe()["checksums"] == "1 damaged"
    with pytest.raises(FeatureStoreError, match=rf"{SAMPLES_FILE}: .*--repair"):
        report.check()
    manifest = read_manifest(store)
    assert manifest is not None
    assert (SAMPLES_FILE in lost_files(store, manifest)) == (how != "flipped")
    assert write_missing(store, num_units=NUM_UNITS) == []
    assert read_tree(store) == whole


def test_a_column_without_a_type_in_some_units_is_read(tmp_path: Path) -> None:
    """Earlier versions wrote one for the authors of a unit in which nobody is named."""
    authors = [pa.nulls(4), pa.array(["a", None, None, "b"])]
    writer = make_writer(tmp_path)
    writer.begin()
    for number, column in enumerate(authors):
        unit = make_unit(number)
        table = unit.samples.append_column("author", column)
        writer.write_unit(number, UnitFeatures(tensors=unit.tensors, samples=table), {})
    writer.finish({})
    found = FeatureStore.open(tmp_path).samples["author"].to_pylist()
    assert found == [value for column in authors for value in column.to_pylist()]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The same store at a URI."""
    uri = f"memory://{uuid.uuid4().hex}/train"
    write_missing(tmp_path / "staging", num_units=NUM_UNITS, uri=uri)
    return uri


def test_at_a_uri_only_the_joined_table_is_downloaded(
    tmp_path: Path, store: Path, uri: str
) -> None:
    assert read_tree(tmp_path / "staging") == {}
    assert read_uri(uri) == read_tree(store)
    assert FeatureStore.open(uri, tmp_path / "cache").samples.equals(expected_samples())
    assert [Path(name).name for name in read_tree(tmp_path / "cache")] == [SAMPLES_FILE]
    inspect_store(uri, verify=True, cache_dir=tmp_path / "cache").check()


def test_at_a_uri_a_missing_table_is_rewritten(tmp_path: Path, uri: str) -> None:
    RemoteFolder(uri).remove(TABLE)
    assert FeatureStore.open(uri, tmp_path / "cache").samples.equals(expected_samples())
    report = inspect_store(uri, cache_dir=tmp_path / "cache")
    assert report.damaged_table == f"{SAMPLES_FILE}: missing"
    (tmp_path / "staging/tables").mkdir(parents=True)  # left by a killed run
    (tmp_path / "staging/tables/00001.parquet").write_bytes(b"of another store")
    write_missing(tmp_path / "staging", num_units=NUM_UNITS, uri=uri)
    inspect_store(uri, verify=True, cache_dir=tmp_path / "cache").check()


def test_at_a_uri_a_damaged_table_of_a_unit_is_not_joined(tmp_path: Path, uri: str) -> None:
    content = bytearray(read_uri(uri)["units/00003.parquet"])
    content[len(content) // 2] ^= 1
    put(f"{uri}/units/00003.parquet", bytes(content))
    with pytest.raises(FeatureStoreError, match=r"\(00003\.parquet: "):
        write_missing(tmp_path / "staging", num_units=NUM_UNITS, uri=uri)
