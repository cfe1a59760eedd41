"""Stores at a URI: the same files as in a folder, and downloads only of what is read."""

import os
import uuid
from functools import partial
from pathlib import Path

import pytest
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import write_json
from featurize.io.remote import RemoteFolder
from featurize.store import FeatureStore
from featurize.store.inspect import inspect_store
from featurize.store.manifest import Unit, lost_files, read_manifest
from tests.support.unit_features import (
    damage,
    make_unit,
    make_writer,
    put,
    read_tree,
    read_uri,
    write_missing,
)

finish = partial(write_missing, num_units=3)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A finished store of three units."""
    uri = f"memory://{uuid.uuid4().hex}/train"
    assert finish(tmp_path / "staging", uri=uri) == [0, 1, 2]
    return uri


def flip_last(uri: str, name: str) -> None:
    content = bytearray(read_uri(uri)[name])
    content[-1] ^= 1
    put(f"{uri}/{name}", bytes(content))


def test_a_store_at_a_uri_has_the_files_of_a_local_one(tmp_path: Path, uri: str) -> None:
    finish(tmp_path / "local")
    assert read_uri(uri) == read_tree(tmp_path / "local")
    assert read_tree(tmp_path / "staging") == {}
    assert read_manifest(uri) == read_manifest(tmp_path / "local")
    assert finish(tmp_path / "elsewhere", uri=uri) == []


def test_only_the_files_that_are_read_are_downloaded(tmp_path: Path, uri: str) -> None:
    finish(tmp_path / "local")
    store = FeatureStore.open(uri, tmp_path / "cache")
    local = FeatureStore.open(tmp_path / "local")
    assert read_tree(tmp_path / "cache") == {}
    rows = torch.tensor([8, 6, 7])
    assert torch.equal(store.gather("mean.2", rows), local.gather("mean.2", rows))
    assert [Path(name).name for name in read_tree(tmp_path / "cache")] == ["00002.safetensors"]
    assert store.samples.equals(local.samples)
    assert torch.equal(store.read("last.2"), local.read("last.2"))


def test_a_downloaded_file_is_used_unless_it_is_torn(tmp_path: Path, uri: str) -> None:
    whole = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    for copy in (tmp_path / "cache").rglob("00000.safetensors"):
        copy.write_bytes(b"")  # as after a power cut
    assert torch.equal(FeatureStore.open(uri, tmp_path / "cache").read("mean.2"), whole)
    for number in range(3):
        RemoteFolder(uri).remove(f"units/{number:05d}.safetensors")
    assert torch.equal(FeatureStore.open(uri, tmp_path / "cache").read("mean.2"), whole)


@pytest.mark.parametrize("how", ["lost", "empty", "torn", "longer", "flipped"])
@pytest.mark.parametrize("name", ["00001.safetensors", "00001.parquet"])
def test_a_damaged_copy_is_downloaded_again(
    tmp_path: Path, uri: str, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = read_uri(uri)[f"units/{name}"]
    FeatureStore.open(uri, tmp_path / "cache").check_unit(unit_of(uri, 1))
    [copy] = (tmp_path / "cache").rglob(name)
    damage(copy, how)
    FeatureStore.open(uri, tmp_path / "cache").check_unit(unit_of(uri, 1))
    assert copy.read_bytes() == whole
    assert ("downloading again" in caplog.text) == (how == "flipped")  # the size says the others


def test_a_copy_that_is_damaged_after_it_was_read_is_downloaded_again(
    tmp_path: Path, uri: str
) -> None:
    store = FeatureStore.open(uri, tmp_path / "cache")
    whole, samples = store.read("mean.2"), store.samples
    for copy in [*(tmp_path / "cache").rglob("*.safetensors")]:
        os.truncate(copy, copy.stat().st_size - 40)  # the shard stays open
    for copy in [*(tmp_path / "cache").rglob("*.parquet")]:
        damage(copy, "torn")
    assert torch.equal(store.read("mean.2"), whole)
    del store.__dict__["samples"]
    assert store.samples.equals(samples)


def test_a_copy_of_a_file_that_is_damaged_at_the_uri_too_is_refused(
    tmp_path: Path, uri: str
) -> None:
    store = FeatureStore.open(uri, tmp_path / "cache")
    store.check_unit(unit_of(uri, 1))
    [copy] = (tmp_path / "cache").rglob("00001.parquet")
    damage(copy, "flipped")
    flip_last(uri, "units/00001.parquet")
    with pytest.raises(FeatureStoreError, match=rf"{uri}: damaged .*another checksum.*--repair"):
        store.check_unit(unit_of(uri, 1))


def unit_of(uri: str, number: int) -> Unit:
    manifest = read_manifest(uri)
    assert manifest is not None
    return manifest.units[number]


def test_a_store_that_was_made_again_is_downloaded_again(tmp_path: Path, uri: str) -> None:
    before = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    for name in ("manifest.json", "plan.json", "units"):
        RemoteFolder(uri).remove(name)
    writer = make_writer(tmp_path / "staging", uri=uri, num_units=1, fingerprint="other")
    writer.begin()
    writer.write_unit(0, make_unit(1), {})
    writer.finish({})
    after = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    assert not torch.equal(before[:3], after)


@pytest.mark.parametrize("name", ["00001.safetensors", "00001.parquet"])
def test_a_file_that_differs_from_the_manifest_is_refused_and_not_kept(
    tmp_path: Path, uri: str, name: str
) -> None:
    flip_last(uri, f"units/{name}")
    store = FeatureStore.open(uri, tmp_path / "cache")

    def read() -> None:
        _ = store.read("mean.2") if name.endswith("safetensors") else store.samples

    for _ in range(2):
        with pytest.raises(FeatureStoreError, match=rf"{uri}: damaged \({name}: "):
            read()
    assert not any(name in path or "partial" in path for path in read_tree(tmp_path / "cache"))
    RemoteFolder(uri).remove(f"units/{name}")
    with pytest.raises(FeatureStoreError, match=rf"\({name}: missing\)"):
        read()


@pytest.mark.parametrize("name", ["00001.safetensors", "00001.parquet", "00001.json"])
def test_only_the_unit_of_a_torn_or_missing_file_is_redone(
    tmp_path: Path, uri: str, name: str
) -> None:
    whole = read_uri(uri)
    put(f"{uri}/units/{name}", whole[f"units/{name}"][:-2])
    assert finish(tmp_path / "staging", uri=uri) == [1]
    RemoteFolder(uri).remove(f"units/{name}")
    assert finish(tmp_path / "staging", uri=uri) == [1]
    assert read_uri(uri) == whole


def test_a_flipped_bit_is_found_by_comparing_checksums(tmp_path: Path, uri: str) -> None:
    whole = read_uri(uri)
    flip_last(uri, "units/00002.safetensors")
    manifest = read_manifest(uri)
    assert manifest is not None
    assert lost_files(uri, manifest) == {}  # the size is right
    report = inspect_store(uri, verify=True, cache_dir=tmp_path / "cache")
    assert list(report.damaged) == [2]
    assert finish(tmp_path / "staging", uri=uri) == []
    assert finish(tmp_path / "staging", uri=uri, is_thorough=True) == [2]
    assert read_uri(uri) == whole


def test_a_unit_that_was_written_but_not_uploaded_is_uploaded_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"memory://{uuid.uuid4().hex}/train"
    writer = make_writer(tmp_path / "staging", uri=uri, num_units=3)
    writer.begin()
    sent: list[str] = []

    def break_off(_folder: RemoteFolder, _source: Path, name: str) -> None:
        sent.append(name)
        if name.endswith("parquet"):
            raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "upload", break_off)
        with pytest.raises(OSError, match="cut off"):
            writer.write_unit(1, make_unit(1), {"samples": 4, "duplicates": 1})
    assert sent == ["units/00001.safetensors", "units/00001.parquet"]  # and no receipt
    assert finish(tmp_path / "staging", uri=uri) == [0, 2]
    finish(tmp_path / "local")
    assert read_uri(uri) == read_tree(tmp_path / "local")


def test_units_of_another_plan_are_neither_overwritten_nor_uploaded(
    tmp_path: Path, uri: str
) -> None:
    whole = read_uri(uri)
    with pytest.raises(FeatureStoreError, match="another dataset"):
        make_writer(tmp_path / "other", uri=uri, fingerprint="other").begin()
    write_json(tmp_path / "staging/plan.json", {"fingerprint": "old"})
    make_writer(tmp_path / "staging", fingerprint="old").write_unit(0, make_unit(2), {})
    assert finish(tmp_path / "staging", uri=uri) == []
    assert read_uri(uri) == whole


def test_a_uri_without_a_finished_store_is_refused(tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}/train"
    with pytest.raises(FeatureStoreError, match=rf"{uri}: .*--split train`"):
        FeatureStore.open(uri, tmp_path)
    make_writer(tmp_path, uri=uri).begin()
    with pytest.raises(FeatureStoreError, match="an unfinished feature store"):
        FeatureStore.open(uri, tmp_path)
