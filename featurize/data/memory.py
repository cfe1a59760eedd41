"""A dict that forgets everything once it holds too much; for what is cheap to work out again."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
MOST_BYTES = 64 << 20  # the statements of CodeContests are half of it


class BoundedMemory(Generic[K, V]):
    """Values by key, with a limit on the bytes that the caller says they take."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._values: dict[K, V] = {}
        self._num_bytes = 0
        self.get = self._values.get  # not a method of ours: it is called for every row

    def add(self, key: K, value: V, num_bytes: int) -> None:
        """Keep a value; all others go where it does not fit beside them."""
        if self._num_bytes + num_bytes > self._most_bytes:
            self.clear()
        self._values[key] = value
        self._num_bytes += num_bytes

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._num_bytes = 0
