"""Checks of single fields of a row; a fault says in one line what is wrong and how to fix it."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from featurize.errors import RowFault, shorten

Row = Mapping[str, object]

# Names of the same fields in other datasets; only used to suggest a rename.
_OTHER_NAMES = {
    "instruction": ("question", "problem", "query", "prompt", "description", "text"),
    "output": ("response", "solution", "answer", "code", "program", "completion"),
    "prompt": ("question", "query", "instruction"),
    "chosen": ("preferred", "accepted", "winner"),
    "rejected": ("dispreferred", "loser"),
}
_JSON_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def describe(value: object) -> str:
    """Show a value of the wrong type together with its JSON type."""
    if value is None:
        return "null"
    return f"{shorten(value)} ({_JSON_TYPES.get(type(value), type(value).__name__)})"


def require(row: Row, key: str, need: str) -> object:
    """Return a required field; `need` says what it is for."""
    if key in row:
        return row[key]
    similar = _similar_key(row, key)
    remedy = f" (rename {similar!r}?)" if similar else ""
    raise RowFault(f"{key!r} is missing; {need}{remedy}")


def to_text(value: object, key: str) -> str:
    """Accept a string that can be encoded as UTF-8."""
    if type(value) is not str:
        raise RowFault(f"{key!r} is {describe(value)}; it must be a string")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowFault(
            f"{key!r} holds the lone surrogate {value[error.start]!r} at character {error.start}, "
            "which no UTF-8 text can hold; remove or replace it"
        ) from None
    return value


def to_answer(value: object, key: str) -> str:
    """Accept a text with at least one character that is not white space."""
    text = to_text(value, key)
    if is_blank(text):
        raise RowFault(f"{key!r} is empty ({shorten(text)}); give the program text or drop the row")
    return text


def optional_text(row: Row, key: str) -> str:
    """Accept a string; absent and null mean the empty string."""
    value = row.get(key)
    return "" if value is None else to_text(value, key)


def optional_id(row: Row, key: str) -> str | None:
    """Accept a non-empty string or a whole number; absent and null mean no id."""
    value = _optional(row, key, (str, int), "it must be a string or a whole number, or absent")
    if not isinstance(value, str):
        return scalar_to_text(value)
    if is_blank(value):
        raise RowFault(f"{key!r} is empty ({shorten(value)}); give an id or leave the field out")
    return to_text(value, key)


def optional_bool(row: Row, key: str) -> bool | None:
    """Accept only true and false; absent and null mean unknown."""
    # NOTE: 0, 1 and "true" are refused: the string "false" is truthy in most languages, and
    # training on flipped labels shows no sign of it.
    need = "write true or false, or null where it is unknown"
    value: bool | None = _optional(row, key, (bool,), need)
    return value


def optional_object(row: Row, key: str) -> Row:
    """Accept an object; absent and null mean an empty one."""
    return _optional(row, key, (dict,), "it must be an object") or {}


def optional_scalar(row: Row, key: str, parent: str) -> str | None:
    """Accept a single value and return it as text; absent, null and NaN mean no value."""
    value = row.get(key)
    if isinstance(value, str):
        return to_text(value, f"{parent}.{key}")
    if isinstance(value, (list, dict)):
        raise RowFault(
            f"'{parent}.{key}' is {describe(value)}; "
            "it must be a string, a number, a boolean or null"
        )
    return scalar_to_text(value)


def scalar_to_text(value: object) -> str | None:
    """Write a string, number or boolean as JSON does, without quotes; None for null and NaN."""
    if type(value) is str or value is None:
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def is_blank(text: str) -> bool:
    """Whether a text has nothing but white space."""
    return not text or text.isspace()


def _optional(row: Row, key: str, types: tuple[type, ...], requirement: str) -> Any:
    value = row.get(key)
    if value is None or type(value) in types:
        return value
    raise RowFault(f"{key!r} is {describe(value)}; {requirement}")


def _similar_key(row: Row, key: str) -> str | None:
    present = [name for name in row if isinstance(name, str)]
    close = difflib.get_close_matches(key, present, n=1)
    if close:
        return close[0]
    lowered = {name.lower(): name for name in present}
    return next((lowered[name] for name in _OTHER_NAMES.get(key, ()) if name in lowered), None)
