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
# Words of longer names, such as `all_tests_passed`; some only in `test_status`, some only of a
# boolean. A last word of _THINGS, or any of _OTHERS, makes a name say something else: which answer
# is the correct one, how many tests passed.
_GOOD_WORDS = {
    "correct", "correctness", "pass", "passed", "passes", "passing", "accepted", "resolved",
    "solved", "success", "successful", "succeeded", "verdict", "judgement", "judgment",
}  # fmt: skip
_BAD_WORDS = {"failed", "incorrect", "wrong", "unresolved", "buggy"}
_STATUS_WORDS = {"result", "results", "status", "outcome"}
_FLAG_WORDS = {
    "reward", "score", "grade", "acc", "accuracy", "good", "gold", "right", "accept", "ac",
    "label", "labels", "target",
}  # fmt: skip
_BAD_FLAG_WORDS = {"error", "bug", "bugs"}
_THINGS = {
    "answer", "answers", "option", "choice", "letter", "solution", "solutions", "code", "output",
    "text", "reason", "index", "idx", "id", "rank", "path", "name", "message", "log",
}  # fmt: skip
_OTHERS = {
    "num", "n", "number", "count", "total", "rate", "http", "if", "base", "expected", "first",
    "initial", "original", "previous",
}  # fmt: skip
_QUESTIONS = ("is", "was", "has", "did")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WORDS = {
    True: {"true", "1", "yes", "passed", "pass", "accepted", "correct", "right", "ac", "ok",
           "resolved", "success", "solved"},
    False: {"false", "0", "no", "failed", "fail", "failure", "rejected", "incorrect", "wrong",
            "wa", "wrong answer", "tle", "time limit exceeded", "mle", "memory limit exceeded",
            "re", "rte", "runtime error", "ce", "compile error", "compilation error", "timeout",
            "timed out", "unresolved"},
}  # fmt: skip


def may_be_label(name: str) -> bool:
    """Whether a column of this name may hold labels."""
    return _polarity(name, True) is not None


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


def possible_labels(row: object) -> dict[str, object]:
    """Return the booleans of a row, and its numbers and verdicts from 0 to 1, by dotted name."""
    if not isinstance(row, dict):
        return {}
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": item for inner, item in value.items()}
    return {name: value for name, value in found.items() if _may_say(value)}


def _may_say(value: object) -> bool:
    is_share = isinstance(value, (int, float)) and 0 <= value <= 1
    return is_share or (isinstance(value, str) and _truth(value) is not None)


def without_labels(row: Row) -> Row:
    """Return a row without the columns that may be labels, read or not."""
    sides = ("chosen", "rejected") if row.get("output") is not None else ()
    return {n: value for n, value in row.items() if n not in sides and not may_be_label(n)}


def label_of(row: Row, names: tuple[str, ...]) -> tuple[str, object]:
    """Return the first column of `names` with a label and the label, if there is one."""
    return next(((n, row[n]) for n in names if row.get(n) is not None), (names[0], None))


def _is_label(name: str, value: object) -> bool:
    if _plain(name) in _LABELS:
        return isinstance(value, (bool, int, float, str))
    is_flag = isinstance(value, bool)
    return _polarity(name, is_flag) is not None and _truth(value) is not None


def _verdict(name: str, value: object) -> bool | None:
    truth = _truth(value)
    is_good = _polarity(name, isinstance(value, bool))
    return truth if truth is None or is_good is not False else not truth


@lru_cache(maxsize=4096)
def _polarity(name: str, is_flag: bool = False) -> bool | None:
    """What true means in a column of this name: correct, or incorrect; None: neither.

    `is_flag`: the column has booleans.
    """
    plain = _plain(name)
    if plain in _LABELS | _VERDICTS | _OPPOSITES:
        return plain not in _OPPOSITES
    words = [word.lower() for word in _PARTS.findall(name.rpartition(".")[2])]
    if not words or (words[-1] in _THINGS and words[0] not in _QUESTIONS) or _OTHERS & {*words}:
        return None
    return _polarity_of({*words}, is_flag)


def _polarity_of(words: set[str], is_flag: bool) -> bool | None:
    if words & _BAD_WORDS or (is_flag and words & _BAD_FLAG_WORDS):
        return False
    is_status = words & _STATUS_WORDS and words & {"test", "tests"}
    return True if words & _GOOD_WORDS or is_status or (is_flag and words & _FLAG_WORDS) else None


def _truth(value: object) -> bool | None:
    """Whether a value says yes or no; None: neither."""
    if not isinstance(value, (bool, int, float, str)):
        return None
    text = " ".join(str(value).lower().replace("_", " ").split())
    text = text.removesuffix(".0") if isinstance(value, float) else text
    if isinstance(value, str) and text.startswith("wrong answer"):  # "... on test 3"
        return False
    return next((truth for truth, words in _WORDS.items() if text in words), None)


def _option(name: str, value: object) -> str:
    """Return the option of `prepare columns` that reads a label."""
    if isinstance(value, bool):
        return _map(name + " == false" if _polarity(name, True) is False else name)
    if isinstance(value, str):
        return f"{_map(name)} --correct-values {_correct_values(name, value)}"
    is_flag = isinstance(value, int) and value in (0, 1)
    return f"{_map(name)} --correct-values 1" if is_flag else _map(f"{name} >= 0.8")


def _correct_values(name: str, value: str) -> str:
    """Examples, or the value itself if it means correct and is not among them."""
    is_other = _verdict(name, value) and value not in ("passed", "AC")
    return shlex.quote(value) if is_other else "passed,AC"


def _map(path: str, field: str = "is_correct") -> str:
    return f"--map {shlex.quote(f'{field}={path}')}"


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.rpartition(".")[2].lower())
