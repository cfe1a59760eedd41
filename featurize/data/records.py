"""Reads labelled programs from JSONL and Parquet; a bad row is refused by its file and line."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import orjson

from featurize.data.conventions import to_plain_rows
from featurize.data.errors import DataError, RowFault, shorten
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
from featurize.data.sources import find_sources, read_lines

__all__ = ["DataError", "Sample", "parse_row", "read_samples"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One program that answers one instruction, with its label where it is known."""

    instruction: str
    output: str
    input: str = ""
    is_correct: bool | None  # None: not known
    problem_id: str
    task_id: str
    difficulty: str | None
    source: str | None
    language: str | None
    location: str  # "file:line"


def read_samples(paths: str | Sequence[str]) -> Iterator[Sample]:
    """Read the samples of files or globs in their order; the first bad row raises DataError."""
    is_empty = True
    sources = find_sources(paths)
    for source in sources:
        for number, line in enumerate(read_lines(source), start=1):
            if line.isspace() or not line:
                continue
            location = source.location(number)
            try:
                samples = to_samples(parse_line(line), location)
            except RowFault as fault:
                raise DataError(f"{location}: {fault}") from None
            is_empty = False
            yield from samples
    if is_empty:
        raise no_rows_error([source.name for source in sources])


def parse_row(row: dict[str, object], location: str) -> list[Sample]:
    """Check one row and return its samples: two of a preference row, else one."""
    try:
        return to_samples(row, location)
    except RowFault as fault:
        raise DataError(f"{location}: {fault}") from None


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


def to_samples(row: object, location: str) -> list[Sample]:
    """Like parse_row, but RowFault is raised, which does not name the place."""
    if not isinstance(row, dict):
        raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
    return [_to_sample(plain, location) for plain in to_plain_rows(row)]


@lru_cache(maxsize=64)  # the rows of a problem mostly stand together: its prompt is hashed once
def prompt_key(instruction: str, input_text: str) -> bytes:
    """Return the 16 bytes that name a prompt by its content."""
    return blake2b(f"{instruction}\0{input_text}".encode(), digest_size=16).digest()


def output_key(output: str) -> bytes:
    """Return the 16 bytes that name an output by its content."""
    return blake2b(output.encode(), digest_size=16).digest()


def no_rows_error(names: Sequence[str]) -> DataError:
    """Return the error of a dataset without rows."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return DataError(f"{names[0]}{more}: holds no rows; the dataset needs at least one")


def _to_sample(row: Row, location: str) -> Sample:
    instruction = to_text(
        require(row, "instruction", "every row needs the task to solve"), "instruction"
    )
    input_text = optional_text(row, "input")
    output = to_answer(require(row, "output", "every row needs the program text"), "output")
    metadata = optional_object(row, "metadata")
    problem_id = optional_id(row, "problem_id")
    task_id = optional_id(row, "task_id")
    return Sample(
        instruction=instruction,
        input=input_text,
        output=output,
        is_correct=optional_bool(row, "is_correct"),
        problem_id=problem_id or prompt_key(instruction, input_text).hex()[:16],
        task_id=task_id or _content_id(instruction, input_text, output),
        difficulty=optional_scalar(metadata, "difficulty", "metadata"),
        source=optional_scalar(metadata, "source", "metadata"),
        language=optional_scalar(metadata, "language", "metadata"),
        location=location,
    )


def _content_id(instruction: str, input_text: str, output: str) -> str:
    """Name a sample by its texts, not its label: a corrected label leaves the id as it is."""
    content = prompt_key(instruction, input_text) + output_key(output)
    return blake2b(content, digest_size=12).hexdigest()
