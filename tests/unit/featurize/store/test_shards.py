"""Which runs of rows are read for a set of rows, and which headers are refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from featurize.store.shards import Shard, plan_runs

STARTS = np.array([0, 10, 10, 30])  # units of 10, 0 and 20 rows


def plan(rows, most_gap=0):
    runs = plan_runs(np.array(rows, np.int64), STARTS, most_gap)
    found = zip(runs.units, runs.first_rows, runs.num_rows, runs.are_direct, strict=True)
    return runs, list(found)


def test_consecutive_rows_of_a_unit_are_one_run_without_a_copy():
    assert plan([])[1] == []
    assert plan([3, 4, 5])[1] == [(0, 3, 3, True)]
    assert plan(range(30))[1] == [(0, 0, 10, True), (2, 0, 20, True)]


@pytest.mark.parametrize("rows", [[5, 4, 3], [3, 3, 4], [3, 5, 4]])
def test_unsorted_or_repeated_rows_are_read_once_and_picked(rows):
    runs, found = plan(rows, most_gap=1)
    assert found == [(0, 3, max(rows) - 2, False)]
    assert (np.array(rows)[runs.order] - 3).tolist() == runs.offsets.tolist()


def test_rows_with_a_small_gap_between_them_are_read_together():
    assert plan([2, 4, 8], most_gap=1)[1] == [(0, 2, 3, False), (0, 8, 1, True)]
    assert plan([2, 4, 8], most_gap=3)[1] == [(0, 2, 7, False)]


def test_large_rows_are_read_together_only_if_that_needs_no_copy():
    assert plan([2, 4, 5])[1] == [(0, 2, 1, True), (0, 4, 2, True)]
    assert plan([5, 4])[1] == [(0, 4, 1, True), (0, 5, 1, True)]
    assert plan([4, 4, 5])[1] == [(0, 4, 2, False)]


def test_neighbours_in_two_units_are_two_runs():
    assert plan([9, 10], most_gap=100)[1] == [(0, 9, 1, True), (2, 0, 1, True)]


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
def test_an_inconsistent_header_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Shard(write_shard(tmp_path / "a", header))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, struct.pack("<Q", 2**63)])
def test_a_header_that_is_longer_than_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="header"):
        Shard(str(tmp_path / "a"))


def test_reading_past_the_end_of_a_shard_is_refused(tmp_path: Path) -> None:
    shard = Shard(write_shard(tmp_path / "a", {"mean.1": GOOD}))
    offset = shard.spans["mean.1"].offset
    assert shard.read(offset, 24) == b"\0" * 24
    with pytest.raises(ValueError, match=f"it ends at byte {offset + 24}"):
        shard.read(offset, 25)
