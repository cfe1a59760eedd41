"""How a mistake in a dataset is told: one line with the place, the fault and the remedy."""

import json
from collections.abc import Sequence

MAX_LISTED = 20  # problems kept one by one; the rest is only counted


class DataError(ValueError):
    """The dataset cannot be used as it is.

    The message is the first problem, in one line; `problems` lists up to twenty of them and
    `total` counts them all.
    """

    def __init__(self, problems: str | Sequence[str], *, total: int | None = None) -> None:
        listed = [problems] if isinstance(problems, str) else list(problems)
        self.problems = listed[:MAX_LISTED]
        self.total = len(listed) if total is None else total
        more = self.total - 1
        tail = f" (and {more} more bad {'row' if more == 1 else 'rows'})" if more else ""
        super().__init__(self.problems[0] + tail)

    def __reduce__(self) -> tuple[object, ...]:
        # The default would rebuild from the message and lose the list between processes.
        return _rebuild, (self.problems, self.total)


class RowFault(ValueError):
    """What is wrong with one row, raised where the row's place is not known yet."""


def _rebuild(problems: list[str], total: int) -> DataError:
    return DataError(problems, total=total)


def shorten(value: object, limit: int = 80) -> str:
    """Show an offending value on one line of at most `limit` characters."""
    if isinstance(value, str):
        shown = repr(value[:limit])  # repr escapes line breaks and lone surrogates
        return shown if len(value) <= limit and len(shown) <= limit else shown[: limit - 4] + "...'"
    try:
        shown = json.dumps(value, default=repr)
    except RecursionError:  # nested deeper than Python can write, though it can read it
        return "..."
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
