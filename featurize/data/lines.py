"""Parses the JSON lines of a dataset; an instruction that many lines repeat is parsed once."""

import json
import secrets
from collections.abc import Sequence
from typing import Annotated

import msgspec
import orjson

from featurize.data.errors import RowFault, shorten
from featurize.data.memory import BoundedMemory

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEY = b'"instruction"'
_BACKSLASH = ord("\\")
_MARK = secrets.token_hex(12)  # what no file can hold on purpose
_MEMBER = b'"instruction":"%s",' % _MARK.encode()
_OPENING = b"{" + _MEMBER

# NOTE: orjson, which parses what is no plain row, takes numbers from 2**64 on for floats, and a
# decoder knows no bound between the two.
_Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = str | _Whole | float | bool | None


class PlainFields(msgspec.Struct, gc=False):
    """What is read of a row's metadata."""

    language: _Scalar = None
    difficulty: _Scalar = None
    source: _Scalar = None


class PlainRow(msgspec.Struct, gc=False):
    """What is read of a row that is a sample, with the types that it must have."""

    instruction: str
    output: str
    input: str | None = None
    is_correct: bool | None = None
    problem_id: str | _Whole | None = None
    task_id: str | _Whole | None = None
    metadata: PlainFields | None = None


class _Middle(msgspec.Struct, forbid_unknown_fields=True):
    instruction: str


# What they raise on lines that are no plain rows, or bad ones.
PLAIN_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_one_row = msgspec.json.Decoder(PlainRow)
_rows = msgspec.json.Decoder(list[PlainRow])
_middle = msgspec.json.Decoder(_Middle)


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
    """Parses lines that hold a plain row each, sooner where they share their instruction.

    A line is cut into `{...,`, then `"instruction": "...",`, then the rest. The middle is parsed
    only when its bytes are new; in its place the others are parsed with a mark, which must come
    out as the row's instruction. Lines that follow each other and begin with the same instruction
    have all their rests parsed at once. Where that fails (a cut inside a nested object, say), the
    line is parsed as a whole.
    """

    def __init__(self) -> None:
        self._known: BoundedMemory[bytes, str] = BoundedMemory()
        self._middle = b"\n"  # of the line before; no line holds this one
        self._start: bytes | tuple[()] = ()  # up to the rest; no line starts with one of none
        self._instruction = ""  # of that start

    def parse_all(self, lines: Sequence[bytes]) -> list[PlainRow]:
        """Parse lines; one of PLAIN_ERRORS says that one of them is no plain row."""
        rows, rests = list[PlainRow](), list[bytes]()
        start, cut = self._start, len(self._start)
        for line in lines:  # run for every row: no calls of ours where lines start alike
            if line.startswith(start):
                rests.append(line[cut:])
                continue
            rows += self._parse_rests(rests)
            rests.clear()
            rows.append(self._parse_in_parts(line) or _one_row.decode(_checked(line)))
            start, cut = self._start, len(self._start)
        rows += self._parse_rests(rests)
        return rows

    def _parse_rests(self, rests: list[bytes]) -> list[PlainRow]:
        """Parse what follows the start, of several lines at once."""
        if not rests:
            return []
        try:
            joined = _checked((b"," + _OPENING).join(rests))
            rows = _rows.decode(b"".join((b"[", _OPENING, joined, b"]")))
            # Broken lines may mend each other, `"x": [1` and `"y": 2}]}`. Where each row has a
            # mark and there are as many as lines, each line is one object.
            if len(rows) == len(rests) and _put(self._instruction, rows):
                return rows
        except PLAIN_ERRORS:
            pass
        return [_one_row.decode(_checked(self._start + rest)) for rest in rests]  # type: ignore[operator]

    def _parse_in_parts(self, line: bytes) -> PlainRow | None:
        """Cut a line and parse the parts; None where they are none."""
        start = line.find(_KEY)
        if start < 0:
            return None
        is_like_last = line.startswith(self._middle, start)
        middle = self._middle if is_like_last else _string_member(line, start)
        head, rest = line[:start], line[start + len(middle) :]
        try:
            instruction = self._parse_middle(middle)
            row = _one_row.decode(_checked(head + _MEMBER + rest))
        except PLAIN_ERRORS:
            return None
        if not _put(instruction, [row]):
            return None  # the cut is elsewhere, or there is another that counts
        self._middle = middle
        if head.strip() == b"{":  # lines of this instruction are likely to start alike
            self._start, self._instruction = head + middle, instruction
        return row

    def _parse_middle(self, middle: bytes) -> str:
        instruction = self._known.get(middle)
        if instruction is None:
            instruction = _middle.decode(b"{" + middle[:-1] + b"}").instruction
            self._known.add(middle, instruction, len(middle))
        return instruction


def _put(instruction: str, rows: list[PlainRow]) -> bool:
    """Put an instruction in the place of marks; whether all rows had one."""
    for row in rows:
        if row.instruction != _MARK:
            return False
        row.instruction = instruction
    return True


def _checked(text: bytes) -> bytes:
    """Refuse what is not UTF-8; the decoders do not look into what they skip."""
    if not text.isascii():
        text.decode()
    return text


def _string_member(line: bytes, start: int) -> bytes:
    """Return the bytes from `start` to the comma behind a string; nothing where there is none."""
    stop = line.find(b'",', start)
    while stop > 0 and line[stop - 1] == _BACKSLASH:
        stop = line.find(b'",', stop + 1)
    return line[start : stop + 2] if stop > 0 else b""
