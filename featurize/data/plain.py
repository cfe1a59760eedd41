"""Takes plain rows many at a time, column by column; leaves the rest to those who can explain."""

from collections.abc import Collection, Iterable, Sequence
from operator import add
from typing import Any

from featurize.data.fields import scalar_to_text
from featurize.data.keys import (
    default_problem_id,
    default_task_id,
    output_keys,
    prompt_keys,
    task_id_checks,
)
from featurize.data.lines import PlainFields, PlainRow

Columns = dict[str, Collection[Any]]

_NONE = type(None)
_NO_FIELDS = PlainFields()


def plain_columns(rows: Sequence[PlainRow]) -> Columns | None:
    """Return what the index notes of rows, by the names of its columns.

    None where something is wrong with a row. The rules are those of `records.check_row`, which
    takes one row at a time and says what is wrong with it.
    """
    outputs = [row.output for row in rows]
    given_problems = _to_text([row.problem_id for row in rows])
    given_ids = _to_text([row.task_id for row in rows])
    if any(_any_blank(texts) for texts in (outputs, given_problems, given_ids)):
        return None
    instructions = [row.instruction for row in rows]
    inputs = [row.input or "" for row in rows]
    fields = [row.metadata or _NO_FIELDS for row in rows]
    prompts, answers = prompt_keys(instructions, inputs), output_keys(outputs)
    problem_ids = _or_default(given_problems, map(default_problem_id, prompts))
    task_ids = _or_default(given_ids, map(default_task_id, prompts, answers))
    encoded = list(map(str.encode, task_ids))
    return {
        "task_id": encoded,
        "problem_id": problem_ids,
        "is_correct": [row.is_correct for row in rows],
        "language": _to_text([field.language for field in fields]),
        "difficulty": _to_text([field.difficulty for field in fields]),
        "source": _to_text([field.source for field in fields]),
        "prompt_key": prompts,
        "output_key": answers,
        "prompt_chars": list(map(add, map(len, instructions), map(len, inputs))),
        "output_chars": list(map(len, outputs)),
        "has_default_id": [task_id is None for task_id in given_ids],
        "task_id_check": task_id_checks(encoded),
    }


def _any_blank(texts: Sequence[str | None]) -> bool:
    """Whether one of the texts that are given says nothing."""
    given = [text for text in texts if text is not None] if None in texts else texts
    return not all(given) or any(map(str.isspace, given))  # type: ignore[arg-type]


def _or_default(given: list[Any], defaults: Iterable[str]) -> list[str]:
    if None not in given:
        return given
    return [text or default for text, default in zip(given, defaults, strict=True)]


def _to_text(values: list[Any]) -> list[str | None]:
    """Return single values as text."""
    kinds = set(map(type, values))
    if kinds <= {str, _NONE}:
        return values
    if kinds <= {str, int, _NONE}:  # each value is written once
        texts = {value: scalar_to_text(value) for value in set(values)}
        return list(map(texts.__getitem__, values))
    return list(map(scalar_to_text, values))
