"""Reading a store of many shards: nothing before it is asked for, few files open, little memory."""

import gc
import json
import os
import resource
import shutil
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.store import FeatureStore, FeatureStoreError
from featurize.store.shards import Shard
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
    """This process may open few files more than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open() + 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_store_is_opened_by_its_manifest_alone(many: Path, tmp_path: Path) -> None:
    shutil.copy(many / "manifest.json", tmp_path / "manifest.json")
    store = FeatureStore.open(tmp_path)
    assert store.num_feature_rows == NUM_UNITS * 8
    assert store.tensor_names == ["last.2", "mean.2"]
    assert store.gather("mean.2", torch.tensor([], dtype=torch.int64)).shape == (0, 3)


def test_only_the_shards_of_the_rows_asked_for_are_read(many: Path, tmp_path: Path) -> None:
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
def test_a_store_has_more_shards_than_a_process_may_open(many: Path) -> None:
    store = FeatureStore.open(many)
    rows = torch.randperm(store.num_feature_rows)
    assert torch.equal(store.gather("last.2", rows), store.read("last.2")[rows])


def test_the_files_are_closed_when_the_store_goes(many: Path) -> None:
    before = num_open()
    store = FeatureStore.open(many)
    store.read("mean.2")
    assert num_open() > before
    gc.disable()  # it must not take the collector
    try:
        del store
        assert num_open() == before
    finally:
        gc.enable()


@pytest.mark.usefixtures("few_files")
def test_threads_may_read_a_store_together(many: Path) -> None:
    store = FeatureStore.open(many)
    whole = store.read("mean.2")

    def is_right(seed: int) -> bool:
        rows = torch.from_numpy(np.random.default_rng(seed).integers(0, len(whole), 300))
        return torch.equal(store.gather("mean.2", rows), whole[rows])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(40)))


# --- headers


def write_shard(path: Path, header: object, content: bytes = b"\0" * 24) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return str(path)


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def test_a_header_longer_than_one_read_is_read(tmp_path: Path) -> None:
    header = {f"mean.{n}": GOOD for n in range(200)} | {"__metadata__": {"format": "pt"}}
    spans = Shard(write_shard(tmp_path / "a", header)).spans
    assert len(spans) == 200
    assert spans["mean.0"].shape == (2, 3)
    assert spans["mean.199"].offset == (tmp_path / "a").stat().st_size - 24


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"\xff",
        [],
        {"a": 1},
        {"a": {}},
        {"a": GOOD | {"dtype": "I7"}},
        {"a": GOOD | {"shape": [3, 3]}},
        {"a": GOOD | {"data_offsets": [0]}},
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Shard(write_shard(tmp_path / "a", header))


@pytest.mark.parametrize("size", [0, 7, 8, 2**63, 2**64 - 1])
def test_a_length_that_is_not_there_is_not_read(tmp_path: Path, size: int) -> None:
    content = struct.pack("<Q", size)[: 8 if size > 7 else size]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="header"):
        Shard(str(tmp_path / "a"))


def test_bytes_behind_the_end_of_a_shard_are_refused(tmp_path: Path) -> None:
    shard = Shard(write_shard(tmp_path / "a", {"mean.1": GOOD}))
    offset = shard.spans["mean.1"].offset
    assert shard.read(offset, 24) == b"\0" * 24
    with pytest.raises(ValueError, match=f"it ends at byte {offset + 24}"):
        shard.read(offset, 25)
