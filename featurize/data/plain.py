"""Checks plain rows many at a time, column by column; leaves the rest to those who can explain."""

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

Columns = dict[str, Collection[Any]]

_NONE = type(None)
_KEYS = ("instruction", "input", "output", "is_correct", "problem_id", "task_id", "metadata")
_SCALARS = ("language", "difficulty", "source")


def plain_columns(rows: Sequence[Any]) -> Columns | None:
    """Return what the index notes of rows of strict JSON, by the names of its columns.

    None where a row is not plain (a preference, say) or something is wrong with it. The rules are
    those of `records.check_row`, which takes one row at a time and says what is wrong with it.
    """
    if not _are(rows, dict):
        return None
    instructions, inputs, outputs, labels, problem_ids, task_ids, metadata = (
        _column(rows, key) for key in _KEYS
    )
    if not (
        _are(instructions, str)
        and _are(inputs, str, _NONE)
        and _are(outputs, str)
        and not _any_blank(outputs)
        and _are(labels, bool, _NONE)
        and _are(metadata, dict, _NONE)
    ):
        return None
    given_problems, given_ids = _ids(problem_ids), _ids(task_ids)
    objects = [fields or {} for fields in metadata] if None in metadata else metadata
    scalars: dict[str, Any] = {name: _scalars(objects, name) for name in _SCALARS}
    if given_problems is None or given_ids is None or None in scalars.values():
        return None
    if None in inputs:
        inputs = [text or "" for text in inputs]
    prompts, answers = prompt_keys(instructions, inputs), output_keys(outputs)
    problem_ids = _or_default(given_problems, map(default_problem_id, prompts))
    task_ids = _or_default(given_ids, map(default_task_id, prompts, answers))
    encoded = list(map(str.encode, task_ids))
    return {
        "task_id": encoded,
        "problem_id": problem_ids,
        "is_correct": labels,
        **scalars,
        "prompt_key": prompts,
        "output_key": answers,
        "prompt_chars": list(map(add, map(len, instructions), map(len, inputs))),
        "output_chars": list(map(len, outputs)),
        "has_default_id": [task_id is None for task_id in given_ids],
        "task_id_check": task_id_checks(encoded),
    }


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[Any]:
    try:
        return [row[key] for row in rows]  # twice as fast as `get`, and most files give all keys
    except KeyError:
        return [row.get(key) for row in rows]


def _are(values: Sequence[Any], *types: type) -> bool:
    return set(map(type, values)).issubset(types)


def _any_blank(texts: list[Any]) -> bool:
    return not all(texts) or any(map(str.isspace, texts))


def _ids(values: list[Any]) -> list[str | None] | None:
    """Return ids as text; None where one of them is no id."""
    kinds = set(map(type, values))
    if not kinds <= {str, int, _NONE}:
        return None
    texts = _to_text(values) if int in kinds else values
    given = [text for text in texts if text is not None] if _NONE in kinds else texts
    return None if _any_blank(given) else texts


def _or_default(given: list[Any], defaults: Iterable[str]) -> list[str]:
    if None not in given:
        return given
    return [text or default for text, default in zip(given, defaults, strict=True)]


def _scalars(objects: Sequence[dict[str, Any]], key: str) -> list[str | None] | None:
    """Return single values as text; None where one of them is something else."""
    values = _column(objects, key)
    kinds = set(map(type, values))
    if kinds <= {str, _NONE}:
        return values
    if kinds <= {str, int, _NONE}:
        return _to_text(values)
    return list(map(scalar_to_text, values)) if kinds <= {str, int, float, bool, _NONE} else None


def _to_text(values: list[Any]) -> list[Any]:
    texts = {value: value if value is None else str(value) for value in set(values)}
    return list(map(texts.__getitem__, values))
