"""Columns that look like a label: a dataset that has one must not be read as if it had none."""

import re
import shlex
from collections.abc import Mapping
from functools import lru_cache

from featurize.data.fields import Row, describe
from featurize.errors import RowFault

# Names without case, spaces, "_" and "-". In the first set any single value is a label; in the
# others only a boolean, 0 or 1, or a word for a verdict.
_LABELS = {
    "iscorrect", "label", "ktotag", "passed", "ispassed", "haspassed", "passedtests",
    "testspassed", "allpassed", "passrate", "verdict", "correctness",
}  # fmt: skip
_VERDICTS = {
    "correct", "pass", "passes", "accepted", "isaccepted", "success", "issuccess", "solved",
    "issolved", "result", "status", "outcome", "valid", "isvalid",
}  # fmt: skip
_OPPOSITES = {"failed", "isfailed", "incorrect", "isincorrect", "wrong", "iswrong"}
_WORDS = {
    True: {"true", "1", "yes", "passed", "pass", "accepted", "correct", "right", "ac", "ok"},
    False: {"false", "0", "no", "failed", "fail", "rejected", "incorrect", "wrong", "wa",
            "wrong answer", "wrong_answer"},
}  # fmt: skip


def may_be_label(name: str) -> bool:
    """Whether a column of this name may hold labels."""
    return _plain(name) in _LABELS | _VERDICTS | _OPPOSITES


def refuse_unread(others: Mapping[str, object], label: object) -> None:
    """Refuse a row of label `label` whose other columns have a label as well, or another one.

    Raises:
        RowFault: a label is not read; the message names the column and the option that reads it.
    """
    if label is not None and not isinstance(label, bool):
        return  # it is refused itself
    for name, value in others.items():
        if not _is_label(name, value):
            continue
        if label is None:
            raise RowFault(
                f"{name!r} is {describe(value)}, a label that is not read; read it with critic "
                f"prepare columns {_option(name, value)}, or keep it with "
                f"{_map(name, 'metadata.' + name.rpartition('.')[2])}"
            )
        if _verdict(name, value) is not label and _verdict(name, value) is not None:
            raise RowFault(
                f"{name!r} is {describe(value)}, but the row's label is {describe(label)}; "
                f"choose one with critic prepare columns {_option(name, value)}"
            )


def without_labels(row: Row) -> Row:
    """Return a row without the columns that may be labels, read or not."""
    return {name: value for name, value in row.items() if not may_be_label(name)}


def label_of(row: Row, names: tuple[str, ...]) -> tuple[str, object]:
    """Return the first column of `names` with a label and the label, if there is one."""
    return next(((n, row[n]) for n in names if row.get(n) is not None), (names[0], None))


def _is_label(name: str, value: object) -> bool:
    plain = _plain(name)
    if plain in _LABELS:
        return isinstance(value, (bool, int, float, str))
    return plain in _VERDICTS | _OPPOSITES and _truth(value) is not None


def _verdict(name: str, value: object) -> bool | None:
    truth = _truth(value)
    return truth if truth is None or _plain(name) not in _OPPOSITES else not truth


def _truth(value: object) -> bool | None:
    """Whether a value says yes or no; None: neither."""
    text = str(value).strip().lower()
    if not isinstance(value, (bool, int, float, str)):
        return None
    text = text.removesuffix(".0") if isinstance(value, float) else text
    return next((truth for truth, words in _WORDS.items() if text in words), None)


def _option(name: str, value: object) -> str:
    """Return the option of `prepare columns` that reads a label."""
    if isinstance(value, bool):
        return _map(name + " == false" if _plain(name) in _OPPOSITES else name)
    if isinstance(value, str):
        return f"{_map(name)} --correct-values passed,AC"
    is_flag = isinstance(value, int) and value in (0, 1)
    return f"{_map(name)} --correct-values 1" if is_flag else _map(f"{name} >= 0.8")


def _map(path: str, field: str = "is_correct") -> str:
    return f"--map {shlex.quote(f'{field}={path}')}"


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.rpartition(".")[2].lower())
