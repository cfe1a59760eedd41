"""Parses the JSON lines of a dataset; an instruction that many lines repeat is parsed once."""

import json
import secrets
from collections.abc import Sequence
from typing import Annotated

import msgspec
import orjson

from featurize.data.memory import BoundedMemory
from featurize.errors import RowFault, shorten

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEY = b'"instruction"'
_BACKSLASH = ord("\\")
_SPACE = b" \t\r\n"  # of JSON; bytes.strip takes more
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
    out as the row's instruction. Where lines begin with their instruction, all their rests are
    parsed at once. Where that fails (a cut inside a nested object, say), a line is parsed as a
    whole.
    """

    def __init__(self) -> None:
        self._known: BoundedMemory[bytes, str] = BoundedMemory()
        self._middle = b"\n"  # of the line before; no line holds this one

    def parse_all(self, lines: Sequence[bytes]) -> list[PlainRow]:
        """Parse lines; one of PLAIN_ERRORS says that one of them is no plain row."""
        try:
            rows = self._parse_together(lines)
        except PLAIN_ERRORS:
            rows = None
        return rows or list(map(self._parse, lines))

    def _parse_together(self, lines: Sequence[bytes]) -> list[PlainRow] | None:
        """Parse lines that begin with their instruction; None where one does not."""
        rests, instructions = list[bytes](), list[str]()
        start: bytes | tuple[()] = ()  # up to the rest; no line starts with one of none
        for line in lines:  # run for every row: no calls of ours where lines start alike
            if not line.startswith(start):
                head, middle = self._cut(line)
                if head.strip(_SPACE) != b"{":
                    return None
                start, instruction = head + middle, self._parse_middle(middle)
                cut = len(start)
            rests.append(line[cut:])
            instructions.append(instruction)
        joined = _checked((b"," + _OPENING).join(rests))
        rows = _rows.decode(b"".join((b"[", _OPENING, joined, b"]")))
        # Broken lines may mend each other, `"x": [1` and `"y": 2}]}`. Where each row has a mark
        # and there are as many as lines, each line is one object.
        if len(rows) != len(lines):
            return None
        for row, instruction in zip(rows, instructions, strict=True):
            if row.instruction != _MARK:
                return None
            row.instruction = instruction
        return rows

    def _parse(self, line: bytes) -> PlainRow:
        """Parse one line, in parts where it has them."""
        head, middle = self._cut(line)
        try:
            instruction = self._parse_middle(middle)
            row = _one_row.decode(_checked(head + _MEMBER + line[len(head) + len(middle) :]))
            if row.instruction == _MARK:  # or the cut is elsewhere, or there is another that counts
                row.instruction = instruction
                return row
        except PLAIN_ERRORS:
            pass
        return _one_row.decode(_checked(line))

    def _cut(self, line: bytes) -> tuple[bytes, bytes]:
        """Return a line's parts before the rest; the middle is empty where there is none."""
        start = line.find(_KEY)
        if start < 0:
            return b"", b""
        middle = self._middle
        if not line.startswith(middle, start):
            middle = _string_member(line, start)
            self._middle = middle or self._middle
        return line[:start], middle

    def _parse_middle(self, middle: bytes) -> str:
        instruction = self._known.get(middle)
        if instruction is None:
            instruction = _middle.decode(b"{" + middle[:-1] + b"}").instruction
            self._known.add(middle, instruction, len(middle))
        return instruction


def _checked(text: bytes) -> bytes:
    """Refuse what is not UTF-8; the decoders do not look into what they skip."""
    if not text.isascii():
        text.decode()
    return text


def _string_member(line: bytes, start: int) -> bytes:
    """Return the bytes from the key at `start` to the comma behind its string, nothing if none."""
    opening = line.find(b'"', start + len(_KEY))
    stop = line.find(b'"', opening + 1)  # one byte is found sooner than the two of `",`
    while stop > 0 and line[stop - 1] == _BACKSLASH:
        stop = line.find(b'"', stop + 1)
    member = line[start : stop + 2]
    return member if stop > 0 and member.endswith(b'",') else b""
