"""Stores at a URI: the same store, whole or not there, and fetched as it is needed."""

import uuid
from pathlib import Path

import fsspec
import pytest
import torch

from featurize.io.files import write_json
from featurize.io.remote import RemoteFolder
from featurize.store import (
    FeatureStore,
    FeatureStoreError,
    RemoteStoreWriter,
    lost_files,
    read_manifest,
)
from featurize.store.inspect import inspect_store
from tests.support.unit_features import make_unit, make_writer, read_tree, write_missing

NUM_UNITS = 3


@pytest.fixture
def uri() -> str:
    return f"memory://{uuid.uuid4().hex}/train"


def writer_to(
    uri: str, path: Path, *, is_thorough: bool = False, fingerprint: str = "content"
) -> RemoteStoreWriter:
    plan = make_writer(path, num_units=NUM_UNITS, fingerprint=fingerprint).plan
    return RemoteStoreWriter(uri, plan, path, is_thorough=is_thorough)


def finish(uri: str, path: Path, *, is_thorough: bool = False) -> list[int]:
    """Makes or finishes the store at `uri` by way of `path`; returns the units it had to write."""
    writer = writer_to(uri, path, is_thorough=is_thorough)
    writer.begin()
    finished = writer.finished_units()
    missing = [number for number in range(NUM_UNITS) if number not in finished]
    for number in missing:
        writer.write_unit(number, make_unit(number), {"samples": 4, "duplicates": 1})
    writer.finish({"samples": 4 * NUM_UNITS, "duplicates": NUM_UNITS})
    return missing


def there(uri: str) -> dict[str, bytes]:
    """Every file at the URI by its relative name."""
    files = fsspec.filesystem("memory")
    root = uri.removeprefix("memory:/")
    return {name.removeprefix(root + "/"): files.cat_file(name) for name in files.find(root)}


def change(uri: str, name: str, content: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{uri.removeprefix('memory:/')}/{name}", content)


def test_a_store_at_a_uri_is_that_of_a_folder_and_nothing_stays_here(
    tmp_path: Path, uri: str
) -> None:
    write_missing(tmp_path / "local", num_units=NUM_UNITS)
    assert finish(uri, tmp_path / "staging") == [0, 1, 2]
    assert there(uri) == read_tree(tmp_path / "local")
    assert read_tree(tmp_path / "staging") == {}
    assert read_manifest(uri) == read_manifest(tmp_path / "local")
    assert finish(uri, tmp_path / "elsewhere") == []


def test_it_is_read_as_that_of_a_folder_is(tmp_path: Path, uri: str) -> None:
    write_missing(tmp_path / "local", num_units=NUM_UNITS)
    finish(uri, tmp_path / "staging")
    store = FeatureStore.open(uri, tmp_path / "cache")
    local = FeatureStore.open(tmp_path / "local")
    assert read_tree(tmp_path / "cache") == {}
    rows = torch.tensor([8, 6, 7])
    assert torch.equal(store.gather("mean.2", rows), local.gather("mean.2", rows))
    fetched = [Path(name).name for name in read_tree(tmp_path / "cache")]
    assert fetched == ["00002.safetensors"]  # and nothing else
    assert store.samples.equals(local.samples)
    assert torch.equal(store.read("last.2"), local.read("last.2"))


def test_what_was_fetched_is_read_without_the_uri(tmp_path: Path, uri: str) -> None:
    finish(uri, tmp_path / "staging")
    whole = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    for number in range(NUM_UNITS):
        RemoteFolder(uri).remove(f"units/{number:05d}.safetensors")
    assert torch.equal(FeatureStore.open(uri, tmp_path / "cache").read("mean.2"), whole)


def test_a_copy_that_a_power_cut_tore_is_fetched_again(tmp_path: Path, uri: str) -> None:
    finish(uri, tmp_path / "staging")
    whole = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    for copy in (tmp_path / "cache").rglob("00000.safetensors"):
        copy.write_bytes(b"")
    assert torch.equal(FeatureStore.open(uri, tmp_path / "cache").read("mean.2"), whole)


def test_a_store_made_anew_is_fetched_anew(tmp_path: Path, uri: str) -> None:
    finish(uri, tmp_path / "staging")
    before = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    for name in ("manifest.json", "plan.json", "units"):
        RemoteFolder(uri).remove(name)
    writer = writer_to(uri, tmp_path / "staging", fingerprint="other")
    writer.begin()
    for number in range(NUM_UNITS):
        writer.write_unit(number, make_unit(number + 1), {})
    writer.finish({})
    after = FeatureStore.open(uri, tmp_path / "cache").read("mean.2")
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["00001.safetensors", "00001.parquet"])
def test_a_file_that_is_not_the_one_of_the_manifest_is_not_kept(
    tmp_path: Path, uri: str, name: str
) -> None:
    finish(uri, tmp_path / "staging")
    content = bytearray(there(uri)[f"units/{name}"])
    content[-1] ^= 1
    change(uri, f"units/{name}", bytes(content))
    store = FeatureStore.open(uri, tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(FeatureStoreError, match=rf"{uri}: damaged \({name}: another checksum"):
            _ = store.read("mean.2") if name.endswith("safetensors") else store.samples
    assert not any(name in path or "partial" in path for path in read_tree(tmp_path / "cache"))
    RemoteFolder(uri).remove(f"units/{name}")
    with pytest.raises(FeatureStoreError, match=rf"\({name}: missing\)"):
        _ = store.read("mean.2") if name.endswith("safetensors") else store.samples


@pytest.mark.parametrize("name", ["00001.safetensors", "00001.parquet", "00001.json"])
def test_a_torn_or_lost_file_is_redone_with_its_unit_and_no_other(
    tmp_path: Path, uri: str, name: str
) -> None:
    finish(uri, tmp_path / "staging")
    whole = there(uri)
    change(uri, f"units/{name}", whole[f"units/{name}"][:-2])
    assert finish(uri, tmp_path / "staging") == [1]
    RemoteFolder(uri).remove(f"units/{name}")
    assert finish(uri, tmp_path / "staging") == [1]
    assert there(uri) == whole


def test_a_flipped_bit_is_found_by_reading_everything(tmp_path: Path, uri: str) -> None:
    finish(uri, tmp_path / "staging")
    whole = there(uri)
    content = bytearray(whole["units/00002.safetensors"])
    content[-1] ^= 1
    change(uri, "units/00002.safetensors", bytes(content))
    manifest = read_manifest(uri)
    assert manifest is not None
    assert lost_files(uri, manifest) == {}  # the size is right
    report = inspect_store(uri, verify=True, cache_dir=tmp_path / "cache")
    assert report.damaged == {2: "00002.safetensors: another checksum"}
    assert finish(uri, tmp_path / "staging") == []
    assert finish(uri, tmp_path / "staging", is_thorough=True) == [2]
    assert there(uri) == whole


def test_a_unit_that_was_written_but_not_sent_is_sent_by_the_next_run(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_to(uri, tmp_path / "staging")
    writer.begin()
    sent: list[str] = []

    def break_off(_folder: RemoteFolder, _source: Path, name: str) -> None:
        sent.append(name)
        if name.endswith("parquet"):
            raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "upload", break_off)
        with pytest.raises(OSError, match="dead"):
            writer.write_unit(1, make_unit(1), {"samples": 4, "duplicates": 1})
    assert sent == ["units/00001.safetensors", "units/00001.parquet"]  # and no receipt
    assert finish(uri, tmp_path / "staging") == [0, 2]
    write_missing(tmp_path / "local", num_units=NUM_UNITS)
    assert there(uri) == read_tree(tmp_path / "local")


def test_a_store_of_another_make_is_not_written_into(tmp_path: Path, uri: str) -> None:
    finish(uri, tmp_path / "staging")
    whole = there(uri)
    with pytest.raises(FeatureStoreError, match="another dataset"):
        writer_to(uri, tmp_path / "other", fingerprint="other").begin()
    # What another store left in the folder of this machine is not sent either.
    write_json(tmp_path / "staging/plan.json", {"fingerprint": "old"})
    make_writer(tmp_path / "staging", fingerprint="old").write_unit(0, make_unit(2), {})
    assert finish(uri, tmp_path / "staging") == []
    assert there(uri) == whole


def test_a_uri_without_a_store_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match=rf"{uri}: no features; .*--split train`"):
        FeatureStore.open(uri, tmp_path)
    writer_to(uri, tmp_path).begin()
    with pytest.raises(FeatureStoreError, match="an unfinished feature store"):
        FeatureStore.open(uri, tmp_path)
