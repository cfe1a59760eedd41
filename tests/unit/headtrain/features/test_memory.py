import errno
import gc
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headtrain.features import memory as feature_memory
from headtrain.features.inputs import choose_columns, read_head_inputs
from headtrain.features.memory import FeatureMemory, gather
from tests.support.synthetic_stores import write_store
from tests.support.train_runs import assert_same_weights, make_train
from tests.unit.headtrain.sweep.test_sweep import POINTS, TENSORS
from tests.unit.headtrain.sweep.test_sweep import run as run_sweep

CPU = torch.device("cpu")
MAPPED = {"max_feature_memory_gb": 0}
GB = 1_000_000_000


def is_mapped(features: torch.Tensor) -> bool:
    """Whether the kernel maps the tensor's first number from a file."""
    place = features.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= place < end:
            return "features." in line
    return False


def test_mapped_features_give_the_same_head_bit_by_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train = make_train(tmp_path)
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "train_holdout": 0.2}
    plain = train("plain", **options)
    assert "GB in memory (cpu)" in caplog.text
    assert "mapped" not in caplog.text
    mapped = train("mapped", training=MAPPED, **options)
    assert f"0.00 GB mapped from files in {tmp_path / 'cache'}" in caplog.text
    assert_same_weights(plain.final, mapped.final)
    assert_same_weights(plain.best, mapped.best)
    assert plain.valid_over_pairs == mapped.valid_over_pairs
    assert plain.holdout_over_problems == mapped.holdout_over_problems
    assert list((tmp_path / "cache").iterdir()) == []


def test_mapping_features_makes_no_other_run(tmp_path: Path) -> None:
    train = make_train(tmp_path)
    train()
    assert train(training=MAPPED).was_up_to_date


def test_mapped_features_give_the_same_sweep(tmp_path: Path) -> None:
    train, valid = (
        write_store(tmp_path / name, tensors=TENSORS, seed=seed, fingerprint=name)
        for seed, name in enumerate(("train", "valid"))
    )
    found = []
    for most_gb in (None, 0):
        points = [
            replace(one, training=replace(one.training, max_feature_memory_gb=most_gb))
            for one in POINTS
        ]
        result = run_sweep((train, valid), tmp_path / f"sweep-{most_gb}", points=points)
        found.append((result.points, result.report))
    assert found[0] == found[1]


def test_a_mapped_matrix_has_a_file_without_a_name(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    columns = choose_columns(store, None, None)
    plain = read_head_inputs(store, columns)
    memory = FeatureMemory(device=CPU, folder=tmp_path / "cache", most_gb=0)
    mapped = read_head_inputs(store, columns, memory=memory)
    assert is_mapped(mapped.features)
    assert not is_mapped(plain.features)
    assert torch.equal(plain.features, mapped.features)
    assert list((tmp_path / "cache").iterdir()) == []
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(gather(mapped.features, rows, CPU), plain.features[rows])


def test_memory_is_used_up_to_the_limit_and_freed(tmp_path: Path) -> None:
    memory = FeatureMemory(device=CPU, folder=tmp_path, most_gb=1000 / GB)
    first = memory.allocate(10, 20)  # 800 bytes
    second = memory.allocate(10, 20)
    third = memory.allocate(5, 10)  # 200 bytes
    assert [is_mapped(one) for one in (first, second, third)] == [False, True, False]
    assert (memory.num_held, memory.num_mapped) == (1000, 800)
    del first, second
    gc.collect()
    assert (memory.num_held, memory.num_mapped) == (200, 0)
    assert not is_mapped(memory.allocate(10, 20))


@pytest.mark.parametrize(("free", "expected"), [(1000, True), (2000, False)])
def test_without_a_limit_a_share_of_the_free_memory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: bool
) -> None:
    monkeypatch.setattr(feature_memory, "available_memory", lambda: free)
    features = FeatureMemory(device=CPU, folder=tmp_path).allocate(10, 20)  # 800 bytes
    assert is_mapped(features) == expected


def test_a_full_disk_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="max_feature_memory_gb") as raised:
        FeatureMemory(device=CPU, folder=tmp_path, most_gb=0).allocate(10, 20)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
