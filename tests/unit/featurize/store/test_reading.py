"""Reading a store of many shards: only requested shards, few open files, from many threads."""

import gc
import os
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.errors import FeatureStoreError
from featurize.store import FeatureStore
from tests.support.synthetic_stores import write_store

NUM_UNITS = 40


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "train"
    tensors = {"mean.2": 3, "last.2": 5}
    write_store(path, num_problems=NUM_UNITS, units=NUM_UNITS, tensors=tensors)
    return path


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process open 16 more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open() + 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_opening_a_store_reads_only_the_manifest(many: Path, tmp_path: Path) -> None:
    shutil.copy(many / "manifest.json", tmp_path / "manifest.json")
    store = FeatureStore.open(tmp_path)
    assert store.num_feature_rows == NUM_UNITS * 8
    assert store.tensor_names == ["last.2", "mean.2"]
    assert store.gather("mean.2", torch.tensor([], dtype=torch.int64)).shape == (0, 3)


def test_only_the_shards_of_requested_rows_are_read(many: Path, tmp_path: Path) -> None:
    whole = FeatureStore.open(many).read("mean.2")
    shutil.copytree(many, tmp_path / "train")
    for shard in (tmp_path / "train/units").glob("*.safetensors"):
        if shard.name != "00007.safetensors":
            shard.unlink()
    store = FeatureStore.open(tmp_path / "train")
    rows = torch.tensor([63, 56, 60])
    assert torch.equal(store.gather("mean.2", rows), whole[rows])
    with pytest.raises(FeatureStoreError, match=r"00006\.safetensors: No such file"):
        store.gather("mean.2", torch.tensor([55]))


@pytest.mark.usefixtures("few_files")
def test_a_store_may_have_more_shards_than_a_process_may_open_files(many: Path) -> None:
    store = FeatureStore.open(many)
    rows = torch.randperm(store.num_feature_rows)
    assert torch.equal(store.gather("last.2", rows), store.read("last.2")[rows])


def test_deleting_a_store_closes_its_files(many: Path) -> None:
    before = num_open()
    store = FeatureStore.open(many)
    store.read("mean.2")
    assert num_open() > before
    gc.disable()  # reference counts must suffice
    try:
        del store
        assert num_open() == before
    finally:
        gc.enable()


@pytest.mark.usefixtures("few_files")
def test_threads_may_share_a_store(many: Path) -> None:
    store = FeatureStore.open(many)
    whole = store.read("mean.2")

    def is_right(seed: int) -> bool:
        rows = torch.from_numpy(np.random.default_rng(seed).integers(0, len(whole), 300))
        return torch.equal(store.gather("mean.2", rows), whole[rows])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(40)))
