"""Rows of a dataset: parsing a line, checking its row, and the samples the row gives."""

import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import orjson
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from featurize.data.authors import AUTHOR_FIELDS, read_author
from featurize.data.conventions import to_plain_rows
from featurize.data.fields import (
    Row,
    describe,
    is_blank,
    optional_bool,
    optional_id,
    optional_object,
    optional_scalar,
    optional_text,
    require,
    scalar_to_text,
    to_answer,
    to_text,
)
from featurize.data.messages import Message, keep_turns, to_messages, to_transcript
from featurize.data.verdicts import without_labels
from featurize.errors import RowFault, shorten

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_PROMPT_BYTES = 8 << 20  # of the prompts that a RowReader remembers
_MAX_METADATA = 4096  # values that a RowReader remembers


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


class CheckedRow(msgspec.Struct, frozen=True, gc=False):
    """A sample without its location, and the keys of its texts."""

    sample: Sample
    has_default_id: bool  # the row gave no task_id
    prompt_key: bytes
    output_key: bytes


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


class _Prompt(NamedTuple):
    instruction: str
    input: str
    key: bytes
    messages: tuple[Message, ...] = ()


class _Facts(NamedTuple):
    """What `metadata` says of a sample."""

    difficulty: str | None
    source: str | None
    language: str | None
    author: str | None


# NOTE: orjson reads integers from 2**64 on as floats; leave those to it.
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = str | _Integer | float | bool | None


# NOTE: unknown fields are left to orjson as well: msgspec would not check their UTF-8.
class _Metadata(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    difficulty: _Scalar = None
    source: _Scalar = None
    language: _Scalar = None
    author: _Scalar | list[_Scalar] = None
    generator: _Scalar | list[_Scalar] = None
    model: _Scalar | list[_Scalar] = None
    response_model: _Scalar | list[_Scalar] = None


class _TypedRow(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A plain row with only known fields of the right types, as most rows are."""

    instruction: msgspec.Raw
    output: str
    input: str | None = None
    is_correct: bool | None = None
    problem_id: str | _Integer | None = None
    task_id: str | _Integer | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_decode_metadata = msgspec.json.Decoder(_Metadata | None).decode
_decode_row = msgspec.json.Decoder(_TypedRow).decode
_decode_text = msgspec.json.Decoder(str).decode


class RowReader:
    """Reads lines as checked rows; decodes prompts and metadata once, as many rows share them."""

    def __init__(self, *, keeps_turns: bool = False, needs_labels: bool = True) -> None:
        """Read prompts of several messages as conversations with `keeps_turns`, else as a text.

        Without `needs_labels`, a label that cannot be read is unknown.
        """
        self._keeps_turns = keeps_turns
        self._needs_labels = needs_labels
        self._prompts: dict[tuple[bytes, str], _Prompt] = {}
        self._num_bytes = 0  # of the keys of _prompts
        self._last: tuple[msgspec.Raw, str] | None = None
        self._last_prompt = _Prompt("", "", b"")
        self._facts: dict[bytes, _Facts] = {}

    def read(self, line: bytes) -> list[CheckedRow]:
        """Parse and check one JSON line; as check_row(parse_line(line)) does, but faster.

        Raises:
            RowFault: what is wrong with the row, without its location.
        """
        try:
            row = self._check_typed(_decode_row(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = None
        return [row] if row else self._check_row(line)

    def _check_row(self, line: bytes) -> list[CheckedRow]:
        return check_row(
            parse_line(line), keeps_turns=self._keeps_turns, needs_labels=self._needs_labels
        )

    def _check_typed(self, row: _TypedRow) -> CheckedRow | None:
        """Check a typed row; None if something is wrong with it."""
        problem_id, task_id = scalar_to_text(row.problem_id), scalar_to_text(row.task_id)
        if (
            is_blank(row.output)
            or (problem_id is not None and is_blank(problem_id))
            or (task_id is not None and is_blank(task_id))
        ):
            return None
        prompt = self._read_prompt(row.instruction, row.input or "")
        facts = self._read_facts(bytes(row.metadata))
        return _with_keys(prompt, row.output, row.is_correct, problem_id, task_id, facts)

    def _read_facts(self, metadata: bytes) -> _Facts:
        """Decode metadata, which is a JSON object or null."""
        facts = self._facts.get(metadata)
        if facts is None:
            typed = _decode_metadata(metadata) or _Metadata()
            facts = _Facts(
                scalar_to_text(typed.difficulty),
                scalar_to_text(typed.source),
                scalar_to_text(typed.language),
                read_author({name: getattr(typed, name) for name in AUTHOR_FIELDS}),
            )
            if len(self._facts) == _MAX_METADATA:
                self._facts.clear()
            self._facts[metadata] = facts
        return facts

    def _read_prompt(self, instruction: msgspec.Raw, input_text: str) -> _Prompt:
        """Decode an instruction, which is a JSON string."""
        if self._last == (instruction, input_text):  # faster than copying and hashing it
            return self._last_prompt
        name = (bytes(instruction), input_text)
        prompt = self._prompts.get(name)
        if prompt is None:
            text = _decode_text(name[0])
            prompt = _Prompt(text, input_text, prompt_key(text, input_text))
            self._num_bytes += len(name[0]) + len(input_text)
            if self._num_bytes > _MAX_PROMPT_BYTES:
                self._prompts.clear()
                self._num_bytes = 0
            self._prompts[name] = prompt
        self._last, self._last_prompt = (instruction, input_text), prompt
        return prompt


def _check_plain(row: Row, *, keeps_turns: bool) -> CheckedRow:
    need = "every row needs the task to solve"
    instruction = require(row, "instruction", need)
    prompt = _read_prompt(instruction, optional_text(row, "input"), keeps_turns=keeps_turns)
    output = to_answer(require(row, "output", "every row needs the program text"), "output")
    metadata = optional_object(row, "metadata")
    problem_id = optional_id(row, "problem_id")
    task_id = optional_id(row, "task_id")
    is_correct = optional_bool(row, "is_correct")
    facts = _Facts(
        optional_scalar(metadata, "difficulty", "metadata"),
        optional_scalar(metadata, "source", "metadata"),
        optional_scalar(metadata, "language", "metadata"),
        read_author(metadata),
    )
    return _with_keys(prompt, output, is_correct, problem_id, task_id, facts)


def _read_prompt(instruction: object, input_text: str, *, keeps_turns: bool) -> _Prompt:
    """Read a text or, with `keeps_turns`, a list of messages."""
    is_conversation = keeps_turns and isinstance(instruction, list)
    if is_conversation:
        instruction = keep_turns(to_messages(instruction, "instruction"), "instruction")
    if not (is_conversation and isinstance(instruction, list)):  # one message is its text
        text = to_text(instruction, "instruction")
        return _Prompt(text, input_text, prompt_key(text, input_text))
    messages = tuple((one["role"], one["content"]) for one in instruction)
    text = to_transcript(messages)
    return _Prompt(text, input_text, conversation_key(messages, input_text), messages)


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
    sample = Sample(
        instruction=prompt.instruction,
        input=prompt.input,
        output=output,
        is_correct=is_correct,
        problem_id=problem_id or prompt.key.hex()[:16],
        task_id=task_id or default_task_id(prompt.key, answer),
        difficulty=facts.difficulty,
        source=facts.source,
        language=facts.language,
        author=facts.author,
        messages=prompt.messages,
    )
    return CheckedRow(sample, task_id is None, prompt.key, answer)
