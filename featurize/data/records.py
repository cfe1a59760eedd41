"""The samples of a dataset row: what a row must hold, checked, with ids where it gives none."""

from dataclasses import dataclass
from typing import NamedTuple

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
    to_string,
)
from featurize.data.keys import default_problem_id, default_task_id, output_keys, prompt_key
from featurize.errors import DataError, RowFault

__all__ = ["CheckedRow", "DataError", "Sample", "check_row", "to_sample"]


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


class CheckedRow(NamedTuple):
    """A sample without its place, and the keys of its texts; a tuple, as there are millions."""

    instruction: str
    input: str
    output: str
    is_correct: bool | None
    problem_id: str
    task_id: str
    has_default_id: bool  # whether the row gave no task_id
    difficulty: str | None
    source: str | None
    language: str | None
    prompt_key: bytes
    output_key: bytes


def check_row(row: object) -> list[CheckedRow]:
    """Return the samples of one row: two of a preference row, else one.

    Raises:
        RowFault: what is wrong with it, without its place.
    """
    if not isinstance(row, dict):
        raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
    return [_check_plain(plain) for plain in to_plain_rows(row)]


def to_sample(row: CheckedRow, location: str) -> Sample:
    """Put a checked row in its place."""
    return Sample(
        instruction=row.instruction,
        input=row.input,
        output=row.output,
        is_correct=row.is_correct,
        problem_id=row.problem_id,
        task_id=row.task_id,
        difficulty=row.difficulty,
        source=row.source,
        language=row.language,
        location=location,
    )


def _check_plain(row: Row) -> CheckedRow:
    instruction = to_string(
        require(row, "instruction", "every row needs the task to solve"), "instruction"
    )
    input_text = optional_text(row, "input")
    prompt = prompt_key(instruction, input_text)
    output = to_answer(require(row, "output", "every row needs the program text"), "output")
    [answer] = output_keys([output])
    metadata = optional_object(row, "metadata")
    problem_id = optional_id(row, "problem_id")
    task_id = optional_id(row, "task_id")
    return CheckedRow(
        instruction,
        input_text,
        output,
        optional_bool(row, "is_correct"),
        problem_id or default_problem_id(prompt),
        task_id or default_task_id(prompt, answer),
        task_id is None,
        optional_scalar(metadata, "difficulty", "metadata"),
        optional_scalar(metadata, "source", "metadata"),
        optional_scalar(metadata, "language", "metadata"),
        prompt,
        answer,
    )
