"""The one table of a store of many units: what their own say, used when whole, made again."""

import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from featurize.io.files import read_json, write_json
from featurize.io.remote import RemoteFolder
from featurize.run.compute import compute
from featurize.run.ranks import Ranks
from featurize.store import (
    FeatureStore,
    FeatureStoreError,
    PlannedPairs,
    RemoteStoreWriter,
    UnitFeatures,
    lost_files,
    mark_pairs,
    read_manifest,
    read_pairs,
)
from featurize.store.inspect import inspect_store
from featurize.store.manifest import SAMPLES_FILE
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store
from tests.support.unit_features import make_unit, make_writer, read_tree, write_missing

NUM_UNITS = 5
TABLE = f"units/{SAMPLES_FILE}"


@pytest.fixture(autouse=True)
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five units are many, and are joined in three pieces."""
    monkeypatch.setattr("featurize.store.samples.TABLES_AT_ONCE", 2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_missing(tmp_path / "train", num_units=NUM_UNITS)
    return tmp_path / "train"


def expected_samples() -> pa.Table:
    """The tables of all units, with feature rows of the store: three a unit."""
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


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if how == "torn" else content)
    if how == "missing":
        path.unlink()


def test_samples_come_from_one_file_and_are_those_of_the_units(store: Path) -> None:
    remove_tables_of_units(store)
    assert FeatureStore.open(store).samples.equals(expected_samples())


def test_a_store_of_few_units_has_no_such_file(tmp_path: Path) -> None:
    write_missing(tmp_path, num_units=2)
    assert TABLE not in read_tree(tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.sample_table is None
    assert FeatureStore.open(tmp_path).samples.num_rows == 8


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
def test_without_the_file_the_tables_of_the_units_are_read(
    store: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store / TABLE, how)
    assert FeatureStore.open(store).samples.equals(expected_samples())
    [message] = caplog.messages
    assert message.startswith(f"{store}: damaged ({SAMPLES_FILE}: ")
    assert "--repair" in message


def test_a_store_from_before_there_was_such_a_file_is_read(store: Path) -> None:
    manifest = read_json(store / "manifest.json")
    assert manifest.pop("sample_table").keys() == {"bytes", "checksum"}
    write_json(store / "manifest.json", manifest)
    (store / TABLE).unlink()
    assert FeatureStore.open(store).samples.equals(expected_samples())


def test_pairs_of_a_store_are_kept_in_it(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
def test_inspect_tells_of_it_and_finishing_again_mends_it(store: Path, how: str) -> None:
    whole = read_tree(store)
    inspect_store(store, verify=True).check()
    damage(store / TABLE, how)
    report = inspect_store(store, verify=True)
    assert report.damaged == {}
    assert report.describe()["checksums"] == "1 damaged"
    with pytest.raises(FeatureStoreError, match=rf"damaged: {SAMPLES_FILE}: .*--repair"):
        report.check()
    manifest = read_manifest(store)
    assert manifest is not None
    assert (SAMPLES_FILE in lost_files(store, manifest)) == (how != "flipped")
    assert write_missing(store, num_units=NUM_UNITS) == []
    assert read_tree(store) == whole


def test_a_rerun_makes_it_again_and_no_unit(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", make_rows())
    store = write_store(make_plan(tmp_path, train, unit_tokens=1))
    whole = read_tree(store)
    assert TABLE in whole
    times = {path: path.stat().st_mtime_ns for path in store.glob("units/0*")}
    assert make_plan(tmp_path, train, unit_tokens=1).finished is not None
    (store / TABLE).unlink()
    plan = make_plan(tmp_path, train, unit_tokens=1)
    assert plan.finished is None
    compute(plan, Ranks(), reporter=NoReporter())
    assert read_tree(store)[TABLE] == whole[TABLE]
    assert {path: path.stat().st_mtime_ns for path in store.glob("units/0*")} == times
    assert make_plan(tmp_path, train, unit_tokens=1).finished is not None


class NoReporter:
    def planned(self, plan: object) -> None:
        raise AssertionError(plan)

    def note(self, text: str) -> None:
        raise AssertionError(text)  # nothing of it is worth a line

    def advance(self, tokens: int) -> None:
        raise AssertionError(tokens)


def finish_at(uri: str, path: Path) -> None:
    writer = RemoteStoreWriter(uri, make_writer(path, num_units=NUM_UNITS).plan, path)
    writer.begin()
    for number in sorted(set(range(NUM_UNITS)) - set(writer.finished_units())):
        writer.write_unit(number, make_unit(number), {"samples": 4, "duplicates": 1})
    writer.finish({"samples": 4 * NUM_UNITS, "duplicates": NUM_UNITS})


def test_at_a_uri_it_is_the_one_table_that_is_fetched(tmp_path: Path, store: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}/train"
    finish_at(uri, tmp_path / "staging")
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file()] == []
    files = fsspec.filesystem("memory")
    root = uri.removeprefix("memory:/")
    there = {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}
    assert there == read_tree(store)
    assert FeatureStore.open(uri, tmp_path / "cache").samples.equals(expected_samples())
    assert [Path(name).name for name in read_tree(tmp_path / "cache")] == [SAMPLES_FILE]
    inspect_store(uri, verify=True, cache_dir=tmp_path / "cache").check()


def test_at_a_uri_a_lost_one_is_done_without_and_made_again(tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}/train"
    finish_at(uri, tmp_path / "staging")
    RemoteFolder(uri).remove(TABLE)
    assert FeatureStore.open(uri, tmp_path / "cache").samples.equals(expected_samples())
    report = inspect_store(uri, cache_dir=tmp_path / "cache")
    assert report.damaged_table == f"{SAMPLES_FILE}: missing"
    (tmp_path / "staging/tables").mkdir(parents=True)  # as a kill may leave it
    (tmp_path / "staging/tables/00001.parquet").write_bytes(b"of another store")
    finish_at(uri, tmp_path / "staging")
    inspect_store(uri, verify=True, cache_dir=tmp_path / "cache").check()


def test_a_damaged_table_of_a_unit_at_a_uri_is_not_joined(tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}/train"
    finish_at(uri, tmp_path / "staging")
    content: Any = bytearray(RemoteFolder(uri).read("units/00003.parquet") or b"")
    content[len(content) // 2] ^= 1
    fsspec.filesystem("memory").pipe_file(
        f"{uri.removeprefix('memory:/')}/units/00003.parquet", bytes(content)
    )
    with pytest.raises(FeatureStoreError, match=r"\(00003\.parquet: another checksum\)"):
        finish_at(uri, tmp_path / "staging")
