"""Shards: which headers are read and which are refused."""

import json
import struct
from pathlib import Path

import pytest

from featurize.store.shards import Shard


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
