"""Takes plain rows many at a time, column by column; leaves the rest to those who can explain."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.data.contexts import Context
from featurize.data.fields import scalar_to_text
from featurize.data.keys import default_task_id, output_keys, prompt_keys, task_id_checks
from featurize.data.lines import PlainFields, PlainRow

_NONE = type(None)
_IDS = {str, _NONE}
_LABELS = {str, int, _NONE}
_NO_FIELDS = PlainFields()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainColumns:
    """What the index notes of rows."""

    contexts: Iterable[Context]  # to be read once
    own: dict[str, Sequence[Any] | np.ndarray]  # by the names of its columns


def plain_columns(rows: Sequence[PlainRow]) -> PlainColumns | None:
    """Return what the index notes of rows; None where something is wrong with one.

    The rules are those of `records.check_row`, which takes one row at a time and says what is
    wrong with it.
    """
    outputs = [row.output for row in rows]
    problem_ids = _to_text([row.problem_id for row in rows])
    task_ids = _to_text([row.task_id for row in rows])
    if any(_any_blank(texts) for texts in (outputs, problem_ids, task_ids)):
        return None
    instructions = [row.instruction for row in rows]
    inputs = [row.input or "" for row in rows]
    fields = [row.metadata or _NO_FIELDS for row in rows]
    answers = output_keys(outputs)
    has_default_id = np.zeros(len(rows), bool)
    if not all(task_ids):
        defaults = map(default_task_id, prompt_keys(instructions, inputs), answers)
        has_default_id[:] = [task_id is None for task_id in task_ids]
        task_ids = [text or default for text, default in zip(task_ids, defaults, strict=True)]
    encoded_ids = list(map(str.encode, task_ids))  # type: ignore[arg-type]
    return PlainColumns(
        contexts=zip(
            instructions,
            inputs,
            problem_ids,
            _one_kind([field.language for field in fields]),
            _one_kind([field.difficulty for field in fields]),
            _one_kind([field.source for field in fields]),
            strict=True,
        ),
        own={
            "task_id": encoded_ids,
            "is_correct": [row.is_correct for row in rows],
            "output_key": answers,
            "output_chars": np.fromiter(map(len, outputs), np.int32, len(rows)),
            "has_default_id": has_default_id,
            "task_id_check": task_id_checks(encoded_ids),
        },
    )


def _any_blank(texts: Sequence[str | None]) -> bool:
    """Whether one of the texts that are given says nothing."""
    given = texts if all(texts) else [text for text in texts if text is not None]
    return not all(given) or any(map(str.isspace, given))  # type: ignore[arg-type]


def _to_text(values: list[Any]) -> list[str | None]:
    """Return ids as text."""
    return values if set(map(type, values)) <= _IDS else list(map(scalar_to_text, values))


def _one_kind(values: list[Any]) -> list[str | int | None]:
    """Return values of which those are equal that have one text; 1 equals 1.0 and true."""
    return values if set(map(type, values)) <= _LABELS else list(map(scalar_to_text, values))
