"""Gathers the values of a column and makes an Arrow array of them, faster than `pa.array` does.

`pa.array` looks at every value for what it might be, and imports pandas first where that is
installed: half a second a process. Here the kind is known, and what lies in one piece is joined.
"""

from array import array
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import count, repeat
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from featurize.data.errors import DataError

_MOST_BYTES = np.iinfo(np.int32).max  # of all texts of an Arrow array
_TYPE_CODES = {pa.int8(): "b", pa.int32(): "i", pa.int64(): "q", pa.uint64(): "Q"}


class Column(Protocol):
    """Values of one kind, a few at a time."""

    def extend(self, values: Collection[Any]) -> None:
        """Append values."""

    def to_array(self) -> pa.Array:
        """Return all of them."""


def empty_column(kind: pa.DataType) -> Column:
    """Return a column of numbers, booleans, bytes, texts or a dictionary of texts.

    Texts that are no dictionary come as bytes of UTF-8; only booleans and the values of a
    dictionary may be None.
    """
    if pa.types.is_dictionary(kind):
        return _Categories()
    return _Numbers(kind) if kind in _TYPE_CODES else _Objects(kind)


class _Numbers:
    """Numbers, which lie as Arrow wants them from the start."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._values = array(_TYPE_CODES[kind])

    def extend(self, values: Collection[Any]) -> None:
        if isinstance(values, np.ndarray):
            self._values.frombytes(values.astype(self._values.typecode, copy=False).tobytes())
        else:
            self._values.extend(values)

    def to_array(self) -> pa.Array:
        return _from_buffers(self._kind, self._values, pa.py_buffer(self._values))


class _Objects:
    """Booleans, bytes of one length or texts, by reference."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._values: list[Any] = []
        self.extend = self._values.extend

    def to_array(self) -> pa.Array:
        values, kind = self._values, self._kind
        if pa.types.is_fixed_size_binary(kind):
            return _from_buffers(kind, values, pa.py_buffer(b"".join(values)))
        if pa.types.is_string(kind):
            return _from_buffers(kind, values, *_joined(values))
        validity = _bits([value is not None for value in values]) if None in values else None
        return _from_buffers(kind, values, _bits(values), validity=validity)


class _Categories:
    """Texts of which few differ, each kept once, in the order they came in; or nothing, null."""

    def __init__(self) -> None:
        self._codes: defaultdict[str | None, int] = defaultdict(count().__next__, {None: -1})
        self._indices = array("i")

    def extend(self, values: Collection[Any]) -> None:
        texts = list(values)
        # To count equal texts is cheaper than to hash each, and mostly a block has one problem.
        if texts and texts.count(texts[0]) == len(texts):
            self._indices.extend(repeat(self._codes[texts[0]], len(texts)))
        else:
            self._indices.extend(map(self._codes.__getitem__, texts))

    def to_array(self) -> pa.Array:
        codes = np.array(self._indices)
        is_there = codes >= 0
        validity = None if is_there.all() else _bits(is_there)
        indices = pa.py_buffer(np.maximum(codes, 0))
        # NOTE: null has no place among the texts: chunks whose dictionaries agree are not unified.
        texts = [text.encode() for text in self._codes if text is not None]
        return pa.DictionaryArray.from_arrays(
            _from_buffers(pa.int32(), self._indices, indices, validity=validity),
            _from_buffers(pa.string(), texts, *_joined(texts)),
        )


def _from_buffers(
    kind: pa.DataType, values: Sequence[Any], *buffers: pa.Buffer, validity: pa.Buffer | None = None
) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [validity, *buffers])


def _joined(texts: Sequence[bytes]) -> tuple[pa.Buffer, pa.Buffer]:
    """Return where each text starts, int32 [texts + 1], and all of them joined."""
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=starts[1:])
    if starts[-1] > _MOST_BYTES:
        raise DataError(f"{starts[-1]:,} bytes of ids in one part of a file; shorten the ids")
    return pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(b"".join(texts))


def _bits(flags: Any) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(flags, bool), bitorder="little"))
