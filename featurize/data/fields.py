"""Checks one field of a row and says in one line what is wrong with it."""

import difflib
import math
from collections.abc import Mapping

from featurize.errors import RowFault, shorten

Row = Mapping[str, object]

# What other datasets call the same field; only used to word the remedy.
_OTHER_NAMES = {
    "instruction": ("question", "problem", "query", "prompt", "description", "text"),
    "output": ("response", "solution", "answer", "code", "program", "completion"),
    "prompt": ("question", "query", "instruction"),
    "chosen": ("preferred", "accepted", "winner"),
    "rejected": ("dispreferred", "loser"),
}
_KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def describe(value: object) -> str:
    """Show a value of the wrong type and name its JSON type."""
    if value is None:
        return "null"
    return f"{shorten(value)} ({_KINDS.get(type(value), type(value).__name__)})"


def require(row: Row, key: str, need: str) -> object:
    """Return a field that must be there; `need` says what the field is for."""
    if key in row:
        return row[key]
    near = _nearest_key(row, key)
    remedy = f" (rename {near!r}?)" if near else ""
    raise RowFault(f"{key!r} is missing; {need}{remedy}")


def to_string(value: object, key: str) -> str:
    """Accept a string."""
    if type(value) is str:
        return value
    raise RowFault(f"{key!r} is {describe(value)}; it must be a string")


def to_bytes(text: str, key: str) -> bytes:
    """Encode a text to UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowFault(
            f"{key!r} holds the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which no UTF-8 text can hold; remove or replace it"
        ) from None


def to_text(value: object, key: str) -> str:
    """Accept a string that can be encoded to UTF-8."""
    text = to_string(value, key)
    if not text.isascii():  # known without a look at the text, where encoding would copy it
        to_bytes(text, key)
    return text


def to_answer(value: object, key: str) -> str:
    """Accept a text that has more than white space."""
    text = to_text(value, key)
    if not text or text.isspace():
        raise RowFault(f"{key!r} is empty ({shorten(text)}); give the program text or drop the row")
    return text


def optional_text(row: Row, key: str) -> str:
    """Accept a string; absent and null mean the empty string."""
    value = row.get(key)
    return "" if value is None else to_text(value, key)


def optional_id(row: Row, key: str) -> str | None:
    """Accept a non-empty string or a whole number as an identifier; absent and null mean none."""
    value = row.get(key)
    if value is None:
        return None
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise RowFault(
            f"{key!r} is {describe(value)}; it must be a string or a whole number, or absent"
        )
    if not value.strip():
        raise RowFault(f"{key!r} is empty ({shorten(value)}); give an id or leave the field out")
    return to_text(value, key)


def optional_bool(row: Row, key: str) -> bool | None:
    """Accept true and false only; absent and null mean unknown."""
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    # NOTE: 0, 1 and "true" are refused: the string "false" is true in most languages, and a
    # dataset with flipped labels trains without any sign of it.
    raise RowFault(
        f"{key!r} is {describe(value)}; write true or false, or null where it is unknown"
    )


def optional_object(row: Row, key: str) -> Row:
    """Accept an object; absent and null mean the empty one."""
    value = row.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RowFault(f"{key!r} is {describe(value)}; it must be an object")
    return value


def optional_scalar(row: Row, key: str, parent: str) -> str | None:
    """Accept any single value and return it as text; absent, null and NaN mean none."""
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
    """Return a string, number or boolean as it is written in the file; null and NaN mean none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _nearest_key(row: Row, key: str) -> str | None:
    present = [name for name in row if isinstance(name, str)]
    close = difflib.get_close_matches(key, present, n=1)
    if close:
        return close[0]
    lowered = {name.lower(): name for name in present}
    return next((lowered[name] for name in _OTHER_NAMES.get(key, ()) if name in lowered), None)
