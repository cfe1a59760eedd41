"""Feature stores that are damaged, killed while written, or out of disk space."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featurize.errors import FeatureStoreError
from featurize.store import FeatureStore
from tests.support.unit_features import damage, make_writer, read_tree, write_missing

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("how", ["lost", "empty", "torn", "longer", "flipped"])
@pytest.mark.parametrize("suffix", ["safetensors", "parquet", "json"])
def test_only_a_damaged_unit_is_redone(tmp_path, suffix, how):
    write_missing(tmp_path)
    whole = read_tree(tmp_path)
    damage(tmp_path / "units" / f"00000.{suffix}", how)
    assert write_missing(tmp_path) == [0]
    assert read_tree(tmp_path) == whole


def test_a_unit_whose_receipt_cannot_be_read_is_redone(tmp_path):
    write_missing(tmp_path)
    whole = read_tree(tmp_path)
    receipt = tmp_path / "units/00000.json"
    receipt.unlink()
    receipt.symlink_to(tmp_path / "gone")
    assert write_missing(tmp_path) == [0]
    assert read_tree(tmp_path) == whole


@pytest.mark.parametrize("content", ["", "{", "null", "[1]", "\udcff"])
def test_a_damaged_plan_is_refused_with_the_remedy(tmp_path, content):
    write_missing(tmp_path)
    (tmp_path / "plan.json").write_text(content, errors="surrogateescape")
    with pytest.raises(FeatureStoreError, match=r"plan\.json: not readable.*delete it and rerun"):
        write_missing(tmp_path)


@pytest.mark.parametrize("how", ["lost", "empty", "torn"])
@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_reading_a_damaged_unit_names_the_file_and_the_remedy(tmp_path, suffix, how):
    write_missing(tmp_path)
    damage(tmp_path / "units" / f"00001.{suffix}", how)
    store = FeatureStore.open(tmp_path)  # by its manifest alone
    message = rf"damaged \(00001\.{suffix}: .*`critic featurize --split \S+ --repair`"
    with pytest.raises(FeatureStoreError, match=message) as info:
        _ = store.read("mean.2") if suffix == "safetensors" else store.samples
    assert "\n" not in str(info.value)


def test_files_whose_shape_differs_from_the_manifest_are_refused(tmp_path):
    write_missing(tmp_path)
    file = tmp_path / "units" / "00001.safetensors"
    save_file({name: tensor[:2].clone() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(FeatureStoreError, match=r"last\.2 .*\[2, 32\].*\[3, 32\]"):
        FeatureStore.open(tmp_path).gather("mean.2", torch.tensor([5]))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["units"][0]["samples"] = 5
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    store = FeatureStore.open(tmp_path)
    with pytest.raises(FeatureStoreError, match=r"00000\.parquet.*4 rows .* 5"):
        _ = store.samples


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"damaged .*--repair`"),
        ("[]", "damaged"),
        ('{"format_version": 1, "units": [{}]}', "damaged"),
        ('{"format_version": 2}', "format version 2, .* reads 1"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, content, message):
    write_missing(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FeatureStoreError, match=rf"manifest\.json: {message}"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("fingerprint", [None, 7, [], {}]),
        ("recipe", [None, True, "7", []]),
        ("counts", [None, True, "7", [], {"read": -1}, {"read": 1e308}]),
        ("tensors mean.2", [None, True, "7", -1, 1.5, []]),
        ("units 0 number", [None, True, "7", -1, 1.5, []]),
        ("units 0 feature_rows", [None, True, "7", -1, 1.5, []]),
        ("units 0 files", [None, True, "7", []]),
        ("units 0 files 00000.parquet", [None, True, "7", [], {}]),
        ("units 0 files 00000.parquet bytes", [None, True, "7", -1, 1.5, []]),
        ("units 0 files 00000.parquet checksum", [None, 7, [], {}]),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_refused(tmp_path, path, values):
    write_missing(tmp_path)
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    *keys, last = [int(key) if key == "0" else key for key in path.split()]
    place = functools.reduce(lambda found, key: found[key], keys, manifest)
    for value in values:
        place[last] = value
        file.write_text(json.dumps(manifest))
        with pytest.raises(FeatureStoreError, match=r"manifest\.json: damaged .*--repair`"):
            FeatureStore.open(tmp_path)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    subprocess.run(
        [sys.executable, "-m", "tests.support.interrupted_writer", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return folder


def list_interrupted(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith(kind))


def test_a_rerun_finishes_a_store_killed_at_any_step(interrupted, tmp_path):
    whole = read_tree(interrupted / "whole")
    states = set()
    stores = list_interrupted(interrupted, "step-") + list_interrupted(interrupted, "killed-")
    for store in stores:
        torn = shutil.copytree(store, tmp_path / store.name)
        files = read_tree(torn)
        named = {name for name in files if not name.endswith(".partial")}
        assert all(files[name] == whole[name] for name in named), store.name
        if "manifest.json" not in named:
            with pytest.raises(FeatureStoreError, match=store.name):
                FeatureStore.open(torn)
        finished = sorted(make_writer(torn).finished_units())
        assert finished == [n for n in (0, 1) if f"units/{n:05d}.json" in named], store.name
        assert write_missing(torn) == [n for n in (0, 1) if n not in finished]
        assert read_tree(torn) == whole, store.name
        states.add((len(named), len(files) > len(named), len(finished)))
    # There were kills after each file, with and without a partial file, at 0 to 2 units.
    assert {number for number, _, _ in states} >= set(range(9))
    assert {is_torn for _, is_torn, _ in states} == {True, False}
    assert {finished for _, _, finished in states} == {0, 1, 2}


def test_a_full_disk_leaves_nothing_half_written(interrupted, tmp_path):
    whole = read_tree(interrupted / "whole")
    found = set()
    for store in list_interrupted(interrupted, "full-"):
        files = read_tree(store)
        assert files == {name: whole[name] for name in files}
        found.add(frozenset(files))
        copy = shutil.copytree(store, tmp_path / store.name, dirs_exist_ok=True)
        write_missing(copy)
        assert read_tree(copy) == whole
    assert frozenset({"plan.json"}) in found  # full while writing the tensors
    assert frozenset({"plan.json", "units/00000.safetensors"}) in found  # while writing the table


def test_all_files_of_a_unit_have_the_same_mode(interrupted):
    modes = {path.suffix: path.stat().st_mode for path in (interrupted / "whole/units").iterdir()}
    assert len(modes) == 3
    assert len(set(modes.values())) == 1
