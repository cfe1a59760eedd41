"""One shard of a store: reads rows of its tensors without mapping or loading the file."""

import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import orjson
import torch

from featurize.arrays import Ints

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""By the names safetensors uses."""


_HEADER_BYTES = 4096
"""Enough for most headers, so one system call reads them."""


class Span(NamedTuple):
    """The position of one tensor in its file."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]  # [rows, width]
    offset: int  # of its first byte


class Shard:
    """A safetensors file of which single rows are read.

    NOTE: not safetensors' own `safe_open`, which maps the whole file for every tensor. A store of
    ten thousand units and several tensors exceeds the number of maps of a process (65,530 on
    Linux), and the pages around each touched row count as memory of the process.

    The file is closed when nothing refers to the shard any more, so a thread may still read one
    that another thread has dropped from the cache.
    """

    _descriptor: int | None = None

    def __init__(self, path: str) -> None:
        """Open the file and read its header.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is not a safetensors file.
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
        """Read bytes of the file; ValueError if it is shorter."""
        assert self._descriptor is not None
        content = os.pread(self._descriptor, num_bytes, offset)
        if len(content) < num_bytes:  # the end, or the 2 GB limit of a system call
            whole = bytearray(num_bytes)
            self.read_into(memoryview(whole), offset)
            return bytes(whole)
        return content

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from `offset` on; ValueError if the file is shorter."""
        assert self._descriptor is not None
        done = os.preadv(self._descriptor, (target,), offset)
        while done < len(target):
            count = os.preadv(self._descriptor, (target[done:],), offset + done)
            if not count:
                raise ValueError(f"it ends at byte {offset + done}")
            done += count


def header_bytes(start: bytes) -> int:
    """Length of a safetensors header, including its length field, from the first 8 bytes."""
    return 8 + int.from_bytes(start[:8], "little")


def parse_header(start: bytes) -> dict[str, Span]:
    """The tensors of a safetensors file, from its first `header_bytes` or more.

    Raises:
        ValueError: the header is damaged.
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


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Ranges of rows to read; `order` sorts the wanted rows, and each run is a slice of it."""

    order: Ints  # [wanted] positions of the wanted rows, sorted by row
    offsets: Ints  # [wanted] row relative to the first of its run, in that order
    places: list[int]  # [runs] position of the first wanted row
    begins: list[int]  # [runs] slice of `order`
    ends: list[int]
    units: list[int]  # [runs] unit of the rows
    first_rows: list[int]  # [runs] first row to read, relative to its unit
    num_rows: list[int]  # [runs] rows to read, including gaps
    are_direct: list[bool]  # [runs] whether the rows are exactly those wanted, in the wanted order


def plan_runs(rows: Ints, starts: Ints, most_gap: int) -> Runs:
    """Group rows into runs, each of which is one read.

    Args:
        rows: the wanted rows, [wanted], counted through the whole store.
        starts: first row of each unit and the number of rows, [units + 1].
        most_gap: gaps up to this many rows are read rather than skipped; 0: rows are so large that
            only consecutive wanted rows are read together, which then need no copy.
    """
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    units = np.searchsorted(starts, wanted, side="right") - 1
    steps = np.diff(wanted)  # [wanted - 1]
    is_next = (steps == 1) & (np.diff(order) == 1)
    is_far = steps > most_gap + 1 if most_gap else ~is_next & (steps > 0)
    is_break = (np.diff(units) != 0) | is_far
    begins = np.concatenate([[0], np.flatnonzero(is_break) + 1])[: len(wanted)].astype(np.int64)
    ends = np.append(begins[1:], len(wanted))[: len(begins)].astype(np.int64)
    firsts, lasts = wanted[begins], wanted[ends - 1]
    num_next = np.concatenate([[0], np.cumsum(is_next)])
    are_direct = num_next[ends - 1] - num_next[begins] == ends - begins - 1
    return Runs(
        order=order,
        offsets=wanted - np.repeat(firsts, ends - begins),
        places=order[begins].tolist(),
        begins=begins.tolist(),
        ends=ends.tolist(),
        units=units[begins].tolist(),
        first_rows=(firsts - starts[units[begins]]).tolist(),
        num_rows=(lasts - firsts + 1).tolist(),
        are_direct=are_direct.tolist(),
    )


SEGMENT_TOKENS = "segment_tokens"
"""Tensor of the tokens of each segment, [feature_rows, segments]; float32 in every store."""

SEGMENT_LOGPROB = "segment_logprob"
"""Tensor of the mean log-probability of each segment's tokens, in nats; 0 where there are none."""


def segments_name(layer: int) -> str:
    """Name of the tensor of a layer's segments, [feature_rows, segments * width]."""
    return f"segments.{layer}"


def is_of_segments(name: str) -> bool:
    """Whether a tensor is about the segments of outputs."""
    return name.startswith("segments.") or is_exact(name)


def is_exact(name: str) -> bool:
    """Whether a tensor is float32 in every store: 16 bits hold no exact counts."""
    return name in (SEGMENT_TOKENS, SEGMENT_LOGPROB)


def stored_as(name: str, dtype: torch.dtype) -> torch.dtype:
    """Number format of a tensor in a store of features in `dtype`."""
    return torch.float32 if is_exact(name) else dtype
