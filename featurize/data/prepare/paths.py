"""Paths to values in rows: `info.lang`, `messages[-1].content`, `outputs[*].rate >= 0.8`."""

import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from featurize.data.fields import Row, describe, is_blank
from featurize.errors import CriticError, RowFault, shorten

MISSING = object()
"""The value of a path that a row does not have."""

_EACH = "[*]"
_INDEX = re.compile(r"\[(-?\d+)\]")
_JSON_START = re.compile(r'\s*(?:[\[{]|"\s*[\[{])')
_COMPARISON = re.compile(r"(?P<path>.+?)\s*(?P<sign>>=|<=|==|!=|>|<)\s*(?P<value>.+)")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
    ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A comparison with a number, a text, true or false."""

    sign: str
    value: float | str | bool

    @classmethod
    def parse(cls, sign: str, text: str) -> "Comparison":
        """Read a value as JSON, else as a text, which may be in single quotes."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = text.strip("'")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not isinstance(value, (int, float, str)) or (sign[0] in "<>" and not is_number):
            raise CriticError(
                f"{sign} {text} compares with no number; write e.g. 'is_correct=rate >= 0.8' or "
                "'is_correct=status == passed'"
            )
        return cls(sign=sign, value=value)

    def apply(self, value: object, path: str) -> bool | None:
        """Compare; null, NaN and blank texts are unknown.

        Raises:
            RowFault: the value is of another type, or a text that differs in case or outer spaces
                only.
        """
        if isinstance(value, str) and is_blank(value):
            return None
        if isinstance(self.value, float | int) and not isinstance(self.value, bool):
            value = _to_number(value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        wanted: Any = type(self.value) if isinstance(self.value, (bool, str)) else None
        if not (is_number if wanted is None else isinstance(value, wanted)):
            raise RowFault(
                f"{path!r} is {describe(value)}, which cannot be compared with "
                f"{describe(self.value)}; correct the comparison {self.sign} {self.value}"
            )
        if isinstance(value, str) and _is_near(value, str(self.value)):
            raise RowFault(
                f"{path!r} is {shorten(value)}, which differs from {self.value!r} in case or "
                "spaces only; write all of them alike, or use --correct-values"
            )
        return _SIGNS[self.sign](value, self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnPath:
    """Where a value is in a row; `[*]` means every item of a list."""

    text: str  # as the user wrote it
    column: str  # without the comparison
    parts: tuple[str, ...]  # up to [*]
    item_parts: tuple[str, ...] | None = None  # after [*]; None: there is no [*]
    comparison: Comparison | None = None

    @classmethod
    def parse(cls, text: str) -> "ColumnPath":
        """Read a path.

        Raises:
            CriticError: `[*]` occurs twice, or the comparison is none.
        """
        found = _COMPARISON.fullmatch(text)
        column = found["path"] if found else text
        comparison = Comparison.parse(found["sign"], found["value"]) if found else None
        before, each, after = column.partition(_EACH)
        if _EACH in after:
            raise CriticError(f"{text!r} has {_EACH} twice; only one list can become rows")
        return cls(
            text=text,
            column=column,
            parts=_to_parts(before),
            item_parts=_to_parts(after) if each else None,
            comparison=comparison,
        )

    @property
    def root(self) -> str:
        """The column that the path starts in."""
        return self.parts[0]

    @property
    def list_name(self) -> str:
        """The path up to [*]."""
        return self.column.partition(_EACH)[0]

    def find(self, row: Row) -> object:
        """Get the value, or `MISSING`; of a path with [*] the items of its list.

        Raises:
            RowFault: [*] follows something that is not a list.
        """
        if self.item_parts is None:
            return row[self.column] if self.column in row else _descend(row, self.parts)
        items = _descend(row, self.parts)
        if items is MISSING or items is None:
            return [] if items is None else MISSING
        items = _parse_text(items)
        if not isinstance(items, list):
            raise RowFault(
                f"{self.list_name!r} is {describe(items)}; {_EACH} needs a list; correct the path"
            )
        return items

    def find_in(self, item: object) -> object:
        """Get the value in an item of the list before [*], or `MISSING`."""
        return _descend(item, self.item_parts or ())


def _is_near(text: str, other: str) -> bool:
    return text != other and text.strip().casefold() == other.strip().casefold()


def _to_parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in _INDEX.sub(r".\1", path).split(".") if part)


def _descend(value: object, parts: Sequence[str]) -> object:
    """Follow the parts; a text on the way is parsed as JSON, numbers are positions in lists."""
    for part in parts:
        value = _parse_text(value)
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and (position := _position(part, len(value))) is not None:
            value = value[position]
        else:
            return None if value is None else MISSING
    return value


def _position(part: str, length: int) -> int | None:
    if not re.fullmatch(r"-?\d+", part):
        return None
    position = int(part)
    return position if -length <= position < length else None


def _parse_text(value: object) -> object:
    """Parse a text that is a JSON object or list, also one that was written as JSON twice.

    Raises:
        RowFault: it begins like one, but is not JSON.
    """
    while isinstance(value, str) and _JSON_START.match(value):
        value = _load_json(value)
    return value


def _load_json(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)  # Python writes NaN, which orjson refuses
    except (ValueError, RecursionError) as error:
        raise RowFault(
            f"a column on the path holds {shorten(text)}, which is not JSON ({error}); write it "
            "with json.dumps, or drop the row"
        ) from None


def _to_number(value: object) -> object:
    """Read a number that is written as a text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
