"""Errors of the whole project: one line with what is wrong, where, and the remedy."""

import errno
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_LISTED = 20  # problems kept one by one; the rest is only counted
MAX_OF_A_KIND = 3  # of those, problems of one kind that are shown
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUBJECT = re.compile(r"'[\w.]+'|not [\w-]+( JSON)?|the row")


class CriticError(ValueError):
    """A mistake in the input, the configuration or the files; commands print it as one line."""


class FeatureStoreError(CriticError):
    """A store that is missing, damaged, unfinished or made from something else."""


class DataError(CriticError):
    """The dataset cannot be used as it is.

    The message is the first problem, in one line; `problems` lists up to twenty of them, `total`
    counts them all and `kinds` says how many there are of each kind.
    """

    def __init__(
        self,
        problems: str | Sequence[str],
        *,
        total: int | None = None,
        kinds: Mapping[str, int] | None = None,
    ) -> None:
        listed = [problems] if isinstance(problems, str) else list(problems)
        self.problems = listed[:MAX_LISTED]
        self.total = len(listed) if total is None else total
        self.kinds = dict(kinds or {})
        more = self.total - 1
        tail = f" (and {more} more bad {'row' if more == 1 else 'rows'})" if more else ""
        super().__init__(self.problems[0] + tail)

    @property
    def details(self) -> list[str]:
        """Lines that list the bad rows and count them by kind; none where the message says all."""
        if self.total == 1:
            return []
        listed = self._listed()
        unlisted = self.total - len(listed)
        kinds = sorted(self.kinds.items(), key=lambda kind: -kind[1])[:MAX_LISTED]
        width = len(f"{self.total:,}")
        return [
            *listed,
            *([f"... and {unlisted:,} more"] if unlisted else []),
            *(["", f"{self.total:,} bad rows, by remedy:"] if kinds else []),
            *(f"  {count:{width},} x {kind}" for kind, count in kinds),
            "",
        ]

    def _listed(self) -> list[str]:
        """The problems without those that repeat a kind too often, which only fill the screen."""
        seen: Counter[str] = Counter()
        listed = []
        for problem in self.problems:
            kind = kind_of(problem.partition(": ")[2])
            seen[kind] += 1
            if not self.kinds or seen[kind] <= MAX_OF_A_KIND:
                listed.append(problem)
        return listed

    def __reduce__(self) -> tuple[object, ...]:
        # The default would rebuild from the message and lose the list between processes.
        return _rebuild, (self.problems, self.total, self.kinds)


class RowFault(CriticError):
    """What is wrong with one row, raised where the row's place is not known yet."""


def kind_of(message: str) -> str:
    """Return what faults of a kind share: whom they concern and the remedy, without the value."""
    subject = _SUBJECT.match(message)
    return f"{subject[0] if subject else 'a row'}: {message.rpartition('; ')[2]}"


def _rebuild(problems: list[str], total: int, kinds: dict[str, int]) -> DataError:
    return DataError(problems, total=total, kinds=kinds)


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


def one_line(error: BaseException) -> str:
    """The message of an error in one line; of an OSError the reason and the file."""
    if isinstance(error, OSError) and error.strerror:
        # NOTE: made where a folder is made below a file; "File exists" sounds like --overwrite.
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        what = f"{reason}: {error.filename}" if error.filename else reason
        return f"{what}; make room and rerun" if error.errno in _FULL_DISK else what
    # A configuration error has a line for each problem; of other errors the first line counts.
    return str(error) if isinstance(error, ValueError) else str(error).partition("\n")[0]
