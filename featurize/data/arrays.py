"""Gathers the values of a column and makes an Arrow array of them, faster than `pa.array` does.

`pa.array` looks at every value for what it might be, and imports pandas first where that is
installed: half a second a process. Here the kind is known, and values lie as Arrow wants them from
the start.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from featurize.errors import DataError

_MOST_BYTES = np.iinfo(np.int32).max  # of all texts of an Arrow array
_TYPE_CODES = {pa.int8(): "b", pa.int32(): "i", pa.int64(): "q", pa.uint64(): "Q"}
_FLAGS = {False: 0, True: 1, None: -1}


class Column(Protocol):
    """Values of one kind, a few at a time."""

    def extend(self, values: Any) -> None:
        """Append a sequence of values."""

    def to_array(self) -> pa.Array:
        """Return all of them."""


def empty_column(kind: pa.DataType) -> Column:
    """Return a column of numbers, booleans, bytes of one length or texts.

    Texts come as bytes of UTF-8; only booleans may be None.
    """
    if kind in _TYPE_CODES:
        return _Numbers(kind)
    if pa.types.is_boolean(kind):
        return _Booleans()
    return _Texts() if pa.types.is_string(kind) else _Bytes(kind)


class _Numbers:
    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._values = array(_TYPE_CODES[kind])

    def extend(self, values: np.ndarray | Iterable[int]) -> None:
        if isinstance(values, np.ndarray):
            self._values.frombytes(values.astype(self._values.typecode, copy=False).tobytes())
        else:
            self._values.extend(values)

    def to_array(self) -> pa.Array:
        return from_buffers(self._kind, len(self._values), pa.py_buffer(self._values))


class _Booleans:
    def __init__(self) -> None:
        self._values = array("b")

    def extend(self, values: np.ndarray | Iterable[bool | None]) -> None:
        if isinstance(values, np.ndarray):
            self._values.frombytes(values.tobytes())
        else:
            self._values.extend(map(_FLAGS.__getitem__, values))

    def to_array(self) -> pa.Array:
        flags = np.array(self._values)
        return from_buffers(pa.bool_(), len(flags), _bits(flags > 0), validity=_where(flags >= 0))


class _Bytes:
    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._values = bytearray()

    def extend(self, values: Iterable[bytes]) -> None:
        self._values += b"".join(values)

    def to_array(self) -> pa.Array:
        num_values = len(self._values) // self._kind.byte_width
        return from_buffers(self._kind, num_values, pa.py_buffer(self._values))


class _Texts:
    def __init__(self) -> None:
        self._lengths = array("i")  # in bytes
        self._values = bytearray()

    def extend(self, values: Sequence[bytes]) -> None:
        self._lengths.extend(map(len, values))
        self._values += b"".join(values)

    def to_array(self) -> pa.Array:
        starts = np.zeros(len(self._lengths) + 1, np.int64)
        np.cumsum(self._lengths, out=starts[1:])
        if starts[-1] > _MOST_BYTES:
            raise DataError(f"{starts[-1]:,} bytes of ids in one part of a file; shorten the ids")
        buffers = pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(self._values)
        return from_buffers(pa.string(), len(self._lengths), *buffers)


def dictionary_array(texts: Iterable[str | None], indices: np.ndarray) -> pa.DictionaryArray:
    """Return texts[i] for each of `indices` [values], null for None; equal texts are kept once."""
    # NOTE: null has no place among the texts: chunks whose dictionaries agree are not unified.
    codes: dict[str | None, int] = {None: -1}
    places = [codes.setdefault(text, len(codes) - 1) for text in texts]
    found = np.array(places, np.int32)[indices]
    kept = _Texts()
    kept.extend([text.encode() for text in codes if text is not None])
    values = pa.py_buffer(np.maximum(found, 0))
    return pa.DictionaryArray.from_arrays(
        from_buffers(pa.int32(), len(found), values, validity=_where(found >= 0)), kept.to_array()
    )


def from_buffers(
    kind: pa.DataType, length: int, *buffers: pa.Buffer, validity: pa.Buffer | None = None
) -> pa.Array:
    """Return an array of what lies in Arrow's own form in `buffers`."""
    return pa.Array.from_buffers(kind, length, [validity, *buffers])


def _where(is_there: np.ndarray) -> pa.Buffer | None:
    return None if is_there.all() else _bits(is_there)


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
