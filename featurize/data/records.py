"""Rows of a dataset: parsing a line, checking its row, and the samples the row gives."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
import orjson
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from featurize.data.authors import read_author
from featurize.data.conventions import to_plain_rows
from featurize.data.fields import (
    Row,
    describe,
    optional_bool,
    optional_id,
    optional_object,
    optional_scalar,
    optional_text,
    require,
    to_answer,
    to_text,
)
from featurize.data.messages import Message, keep_turns, to_messages, to_transcript
from featurize.data.verdicts import without_labels
from featurize.errors import RowFault, shorten

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One program that answers one instruction, with its label if known."""

    instruction: str
    output: str
    input: str = ""
    is_correct: bool | None  # None: unknown
    problem_id: str
    task_id: str
    difficulty: str | None
    source: str | None
    language: str | None
    author: str | None = None  # who wrote the output: a person or a model, see read_author
    location: str = ""  # "file:line"
    messages: tuple[Message, ...] = ()  # of a conversation; `instruction` is its transcript


class _Prompt(msgspec.Struct, frozen=True, gc=False):
    instruction: str | msgspec.Raw  # JSON that was checked, if the text is not wanted yet
    input: str
    key: bytes
    num_chars: int  # of instruction and input
    messages: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """The instruction."""
        found = self.instruction
        return found if isinstance(found, str) else _shared_text(bytes(found))


class _Facts(NamedTuple):
    """What `metadata` says of a sample."""

    difficulty: str | None
    source: str | None
    language: str | None
    author: str | None


class CheckedRow(msgspec.Struct, frozen=True, gc=False):
    """What a checked row says of one sample, and the keys of its texts."""

    prompt: _Prompt
    output: str
    output_key: bytes
    is_correct: bool | None
    problem_id: str
    task_id: str
    has_default_id: bool  # the row gave no task_id
    facts: _Facts

    @property
    def sample(self) -> Sample:
        """The sample, without its location."""
        return Sample(
            instruction=self.prompt.text,
            input=self.prompt.input,
            messages=self.prompt.messages,
            output=self.output,
            is_correct=self.is_correct,
            problem_id=self.problem_id,
            task_id=self.task_id,
            **self.facts._asdict(),
        )


# NOTE: xxHash, because every output is hashed and BLAKE2 takes ten times as long. It does not
# resist attacks, but an attacker could only make two texts of their own dataset count as one.
def prompt_key(instruction: str, input_text: str) -> bytes:
    """Hash a prompt to 16 bytes: equal texts, equal keys."""
    return xxh3_128_digest(instruction.encode() + b"\0" + input_text.encode())


def conversation_key(messages: Sequence[Message], input_text: str) -> bytes:
    """Hash a conversation to 16 bytes: equal roles and texts, equal keys."""
    return prompt_key(orjson.dumps(["conversation", messages]).decode(), input_text)


def output_key(output: str) -> bytes:
    """Hash an output to 16 bytes."""
    return xxh3_128_digest(output.encode())


def default_task_id(prompt: bytes, output: bytes) -> str:
    """Name a sample by the keys of its texts; a corrected label does not change the id."""
    return xxh3_128_hexdigest(prompt + output)[:24]


def parse_line(line: bytes) -> object:
    """Parse one JSON line.

    Raises:
        RowFault: the line is not UTF-8 or not JSON.
    """
    line = line.removeprefix(_BYTE_ORDER_MARK)
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg.partition(':')[0]} at character {error.pos}"
    try:
        # NOTE: json accepts lone surrogates and NaN as well. They do no harm in a field that
        # nobody reads, and the checks of the other fields name the field in their message.
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise RowFault(
            f"not UTF-8 ({error.reason} at byte {error.start}); convert the file"
        ) from None
    except (ValueError, RecursionError):
        shown = shorten(line.decode("utf-8", "replace").strip())
        raise RowFault(
            f"not valid JSON ({reason}): {shown}; every line must be one JSON object"
        ) from None


def check_row(
    row: object, *, keeps_turns: bool = False, needs_labels: bool = True
) -> list[CheckedRow]:
    """Check a parsed row; return two samples for a preference row, else one.

    With `keeps_turns`, prompts may be conversations; else their messages are joined to a text.
    Without `needs_labels`, a row whose label cannot be read is one of an unknown label.

    Raises:
        RowFault: what is wrong with the row, without its location.
    """
    if not isinstance(row, dict):
        raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
    try:
        rows = to_plain_rows(row, keeps_turns=keeps_turns)
    except RowFault:
        if needs_labels:
            raise
        rows = to_plain_rows(without_labels(row), keeps_turns=keeps_turns)
    return [_check_plain(plain, keeps_turns=keeps_turns) for plain in rows]


# NOTE: orjson reads integers from 2**64 on as floats; leave those to it.
_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


# NOTE: unknown fields are left to orjson: msgspec would not check their UTF-8.
class _PlainRow(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A plain row with only known fields of the right types, as most rows are."""

    instruction: msgspec.Raw
    output: _Text
    input: str | None = None
    is_correct: bool | None = None
    problem_id: _Text | _Number | None = None
    task_id: _Text | _Number | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_PlainRow)
_decode_text = msgspec.json.Decoder(str).decode


def _id_to_text(value: str | int | None) -> str | None:
    return str(value) if isinstance(value, int) else value


# Longer metadata is not cached, so that the cache takes some megabytes at most.
_MAX_REMEMBERED = 16 << 10


def _text_prompt(instruction: str, input_text: str) -> _Prompt:
    num_chars = len(instruction) + len(input_text)
    return _Prompt(instruction, input_text, prompt_key(instruction, input_text), num_chars)


@dataclass(kw_only=True)
class RowReader:
    """Reads lines as checked rows."""

    keeps_turns: bool = False  # prompts may be conversations; else their messages are joined
    needs_labels: bool = True  # else a label that cannot be read is unknown

    def read(self, line: bytes) -> list[CheckedRow]:
        """Parse and check one JSON line; as check_row(parse_line(line)) does, but faster.

        Raises:
            RowFault: what is wrong with the row, without its location.
        """
        try:
            return [self._check_typed(_decoder.decode(line))]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return check_row(
                parse_line(line), keeps_turns=self.keeps_turns, needs_labels=self.needs_labels
            )

    def read_plain(self, lines: bytes) -> list[CheckedRow] | None:
        """Read lines that are all plain rows; None if one is not, or has a fault."""
        try:
            return [self._check_typed(row) for row in _decoder.decode_lines(lines)]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def _check_typed(self, row: _PlainRow) -> CheckedRow:
        prompt = _find_prompt(row.instruction, row.input or "")
        problem_id, task_id = _id_to_text(row.problem_id), _id_to_text(row.task_id)
        if row.output.isspace() or (problem_id or "-").isspace() or (task_id or "-").isspace():
            raise RowFault("empty")  # check_row names the field
        metadata = bytes(row.metadata)
        is_long = len(metadata) > _MAX_REMEMBERED
        facts = (_decode_facts.__wrapped__ if is_long else _decode_facts)(metadata)
        return _with_keys(prompt, row.output, row.is_correct, problem_id, task_id, facts)


@lru_cache(maxsize=16)
def _shared_text(instruction: bytes) -> str:
    """Decode an instruction; neighbours get one text in memory."""
    return _decode_text(instruction)


# Key and length of prompts by the hash of their JSON: many rows share one, and few are decoded.
_known_prompts: dict[bytes, tuple[bytes, int]] = {}
_MAX_PROMPTS = 1 << 16  # an entry takes some 250 bytes


def _find_prompt(raw: msgspec.Raw, input_text: str) -> _Prompt:
    name = xxh3_128_digest(raw) + (output_key(input_text) if input_text else b"")
    if (known := _known_prompts.get(name)) is not None:
        return _Prompt(raw, input_text, *known)
    prompt = _text_prompt(_decode_text(raw), input_text)
    if len(_known_prompts) >= _MAX_PROMPTS:
        _known_prompts.clear()
    _known_prompts[name] = prompt.key, prompt.num_chars
    return prompt


@lru_cache(maxsize=1024)
def _decode_facts(metadata: bytes) -> _Facts:
    return _read_facts(optional_object({"metadata": orjson.loads(metadata)}, "metadata"))


def _read_facts(metadata: Row) -> _Facts:
    """Read what the metadata of a row say of its sample."""
    return _Facts(
        optional_scalar(metadata, "difficulty", "metadata"),
        optional_scalar(metadata, "source", "metadata"),
        optional_scalar(metadata, "language", "metadata"),
        read_author(metadata),
    )


def _check_plain(row: Row, *, keeps_turns: bool) -> CheckedRow:
    need = "every row needs the task to solve"
    instruction = require(row, "instruction", need)
    prompt = _read_prompt(instruction, optional_text(row, "input"), keeps_turns=keeps_turns)
    output = to_answer(require(row, "output", "every row needs the program text"), "output")
    metadata = optional_object(row, "metadata")
    ids = optional_id(row, "problem_id"), optional_id(row, "task_id")
    label = optional_bool(row, "is_correct")
    return _with_keys(prompt, output, label, *ids, _read_facts(metadata))


def _read_prompt(instruction: object, input_text: str, *, keeps_turns: bool) -> _Prompt:
    """Read a text or, with `keeps_turns`, a list of messages."""
    if keeps_turns and isinstance(instruction, list):
        kept = keep_turns(to_messages(instruction, "instruction"), "instruction")
        if not isinstance(kept, str):  # one message is its text
            messages = tuple((one["role"], one["content"]) for one in kept)
            key = conversation_key(messages, input_text)
            transcript = to_transcript(messages)
            num_chars = len(transcript) + len(input_text)
            return _Prompt(transcript, input_text, key, num_chars, messages)
        instruction = kept
    return _text_prompt(to_text(instruction, "instruction"), input_text)


def _with_keys(
    prompt: _Prompt,
    output: str,
    is_correct: bool | None,
    problem_id: str | None,
    task_id: str | None,
    facts: _Facts,
) -> CheckedRow:
    """Add the keys of the texts, and default ids if the row gives none."""
    answer = output_key(output)
    return CheckedRow(
        prompt=prompt,
        output=output,
        output_key=answer,
        is_correct=is_correct,
        problem_id=problem_id or prompt.key.hex()[:16],
        task_id=task_id or default_task_id(prompt.key, answer),
        has_default_id=task_id is None,
        facts=facts,
    )
