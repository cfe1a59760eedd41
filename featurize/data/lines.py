"""Parses the JSON lines of a dataset; an instruction that many lines repeat is parsed once."""

import json
import secrets
from typing import Any

import orjson

from featurize.data.errors import RowFault, shorten
from featurize.data.memory import BoundedMemory

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEY = b'"instruction"'
_BACKSLASH = ord("\\")
_SPACE = b" \t\r\n"  # what JSON takes for space
_MARK = secrets.randbits(62)  # what no file can hold on purpose
_OPENING = b'{"instruction":%d,' % _MARK


def parse_line(line: bytes) -> object:
    """Parse one JSON line; RowFault says what is wrong with it."""
    line = line.removeprefix(_BYTE_ORDER_MARK)
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg.partition(':')[0]} at character {error.pos}"
    try:
        # NOTE: json also takes lone surrogates and NaN. The fields are checked next, with a
        # message that names them; in a field that nobody reads they do no harm.
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise RowFault(
            f"not UTF-8 ({error.reason} at byte {error.start}); convert the file"
        ) from None
    except (ValueError, RecursionError):
        shown = shorten(line.decode("utf-8", "replace").strip(), 80)
        raise RowFault(
            f"not valid JSON ({reason}): {shown}; every line must be one JSON object"
        ) from None


class LineParser:
    """Parses lines of strict JSON, sooner where they share their instruction.

    A line is cut into `{...,`, then `"instruction": "...",`, then the rest. Each part is parsed as
    an object of its own, the middle one only when its bytes are new. Lines that follow each other
    and begin with the same instruction have all their rests parsed at once. Where the parts are no
    objects (a cut inside a nested object, say), the line is parsed as a whole.
    """

    def __init__(self) -> None:
        self._known: BoundedMemory[bytes, dict[str, Any]] = BoundedMemory()
        self._middle = b"\n"  # of the line before; no line holds this one
        self._start: bytes | tuple[()] = ()  # up to the rest; no line starts with one of none
        self._instruction: Any = None  # of that start

    def parse_all(self, block: bytearray, end: int) -> tuple[list[Any], list[int]]:
        """Parse the lines up to `end`; returns rows, and lengths with the ends of the lines.

        Raises:
            orjson.JSONDecodeError: a line is not strict JSON.
        """
        # NOTE: this loop is run for every row: local names, no calls of ours, no copies.
        rows, lengths, rests = list[Any](), list[int](), list[memoryview]()
        starts_with, find = block.startswith, block.find
        add_rest, add_length = rests.append, lengths.append
        view = memoryview(block)
        start, start_length = self._start, len(self._start)
        at = 0
        while at < end:
            if starts_with(start, at):
                cut = at + start_length
                stop = find(b"\n", cut, end) + 1 or end
                add_rest(view[cut:stop])
            else:
                rows += self._parse_rests(rests)
                rests.clear()
                stop = find(b"\n", at, end) + 1 or end
                rows.append(self._parse_in_parts(bytes(view[at:stop])))
                start, start_length = self._start, len(self._start)
            add_length(stop - at)
            at = stop
        rows += self._parse_rests(rests)
        return rows, lengths

    def _parse_rests(self, rests: list[memoryview]) -> list[Any]:
        """Parse what follows the start, of several lines at once."""
        if not rests:
            return []
        try:
            rows: list[Any] = orjson.loads(b"[" + _OPENING + (b"," + _OPENING).join(rests) + b"]")
            # Broken lines may mend each other, `"x": [1` and `"y": 2}]}`. Where each row begins
            # with a mark and there are as many as lines, each line is one object.
            if len(rows) == len(rests):
                for row in rows:
                    if row["instruction"] != _MARK:
                        break  # it comes twice, and the later one counts
                    row["instruction"] = self._instruction
                else:
                    return rows
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
        return [orjson.loads(self._start + bytes(rest)) for rest in rests]  # type: ignore[operator]

    def _parse_in_parts(self, line: bytes) -> Any:
        start = line.find(_KEY)
        if start > 0:
            try:
                if row := self._join_parts(line, start):
                    return row
            except orjson.JSONDecodeError:
                pass
        return orjson.loads(line)

    def _join_parts(self, line: bytes, start: int) -> dict[str, Any] | None:
        """Cut a line at `start` and parse the parts; None where they are no objects."""
        head = _head_members(line[:start])
        is_like_last = line.startswith(self._middle, start)
        middle = self._middle if is_like_last else _string_member(line, start)
        if head is None or not middle:
            return None
        stop = start + len(middle)
        members = self._parse_middle(middle)
        rest: dict[str, Any] = orjson.loads(b"{" + line[stop:])
        self._middle = middle
        if not head and len(members) == 1:  # lines of this instruction are likely to start alike
            self._start, [self._instruction] = line[:stop], members.values()
        return head | members | rest if rest else None

    def _parse_middle(self, middle: bytes) -> dict[str, Any]:
        members = self._known.get(middle)
        if members is None:
            members = orjson.loads(b"{" + middle[:-1] + b"}")
            self._known.add(middle, members, len(middle))
        return members


def _string_member(line: bytes, start: int) -> bytes:
    """Return the bytes from `start` to the comma behind a string; nothing where there is none."""
    stop = line.find(b'",', start)
    while stop > 0 and line[stop - 1] == _BACKSLASH:
        stop = line.find(b'",', stop + 1)
    return line[start : stop + 2] if stop > 0 else b""


def _head_members(head: bytes) -> dict[str, Any] | None:
    """Return the members before the cut; None where it is not a cut between members."""
    head = head.strip(_SPACE)
    if head == b"{":
        return {}
    if not head.endswith(b","):
        return None
    return orjson.loads(head[:-1] + b"}") or None  # nor is `{,` an object
