"""Keeps transformers from looking for several sequences in a row, for which a GPU would wait.

Without a mask, `create_causal_mask` compares the position ids of a batch on the device to find out
whether its rows hold several sequences each. Rows of padded batches hold one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from transformers import masking_utils

_SEARCH = "find_packed_sequence_indices"

_is_known: ContextVar[bool] = ContextVar("rows are single sequences", default=False)


@contextlib.contextmanager
def single_sequences() -> Iterator[None]:
    """Within, in this thread alone, transformers takes each row of a batch for one sequence."""
    _teach()
    token = _is_known.set(True)
    try:
        yield
    finally:
        _is_known.reset(token)


@functools.cache
def _teach() -> None:
    """Have the search return at once where the answer is known; elsewhere nothing changes."""
    search: Callable[..., Any] | None = getattr(masking_utils, _SEARCH, None)
    if search is None:
        return

    @functools.wraps(search)
    def unless_known(*args: Any, **options: Any) -> Any:
        return None if _is_known.get() else search(*args, **options)

    setattr(masking_utils, _SEARCH, unless_known)
