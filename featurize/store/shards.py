"""One shard of a store, open for reading: where in the file the rows of each tensor lie."""

import math
import os
from typing import NamedTuple

import orjson
import torch

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""What safetensors calls them."""


_HEADER_BYTES = 4096
"""Enough for the header of most files, so that it takes one system call."""


class Span(NamedTuple):
    """Where one tensor lies in its file."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]  # [rows, width]
    offset: int  # of its first byte


class Shard:
    """A safetensors file whose rows are read where they lie: nothing else is read or mapped.

    NOTE: not safetensors' own `safe_open`: it maps the whole file for every tensor. A store of ten
    thousand units and some tensors passes the maps a process may have (65,530 on Linux), and the
    pages around each row that is touched count as memory of the process.

    The file is closed when nobody holds the shard any more, so that a thread may go on reading one
    that another thread has put out of the cache.
    """

    _descriptor: int | None = None

    def __init__(self, path: str) -> None:
        """Opens the file and reads its header.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is no safetensors file.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        start = os.pread(self._descriptor, _HEADER_BYTES, 0)
        length = header_bytes(start)
        if _HEADER_BYTES < length <= os.fstat(self._descriptor).st_size:
            start = os.pread(self._descriptor, length, 0)
        self.spans = parse_header(start)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Bytes of the file; ValueError where it ends before them."""
        assert self._descriptor is not None
        content = os.pread(self._descriptor, num_bytes, offset)
        if len(content) < num_bytes:  # its end, or the 2 GB a system call moves at most
            whole = bytearray(num_bytes)
            self.read_into(memoryview(whole), offset)
            return bytes(whole)
        return content

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills `target` from `offset` on; ValueError where the file ends."""
        assert self._descriptor is not None
        done = os.preadv(self._descriptor, (target,), offset)
        while done < len(target):
            count = os.preadv(self._descriptor, (target[done:],), offset + done)
            if not count:
                raise ValueError(f"it ends at byte {offset + done}")
            done += count


def header_bytes(start: bytes) -> int:
    """How long a safetensors file's header is, its own length included, by its first 8 bytes."""
    return 8 + int.from_bytes(start[:8], "little")


def parse_header(start: bytes) -> dict[str, Span]:
    """The tensors of a safetensors file, by its first `header_bytes` or more.

    Raises:
        ValueError: it cannot be one.
    """
    length = header_bytes(start)
    if len(start) < max(length, 8):
        raise ValueError(f"its header of {length} bytes is not there")
    try:
        fields = orjson.loads(start[8:length])
        fields.pop("__metadata__", None)
        spans = {}
        for name, entry in fields.items():
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if last - first != math.prod(shape) * DTYPES[entry["dtype"]].itemsize:
                raise ValueError(f"its header gives {name} {last - first} bytes")
            spans[name] = Span(entry["dtype"], shape, length + first)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its header is damaged: {error!r}") from error
    return spans
