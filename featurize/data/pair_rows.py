"""Rows of other people's tests as plain rows: each pair a problem of its own, its subset kept."""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from featurize.data.conventions import to_plain_rows
from featurize.data.fields import Row, describe, optional_id, optional_object
from featurize.data.keys import default_task_id, output_keys, prompt_key
from featurize.data.lines import parse_line
from featurize.data.records import check_row
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import MAX_LISTED, DataError, RowFault, kind_of, shorten
from featurize.io.files import atomic_path

CORRECT, INCORRECT = "correct", "incorrect"
"""What follows `#` in the task ids written here, before the number of the answer."""

_VERSION = 2
_SIDES = {CORRECT: ("chosen", CORRECT), INCORRECT: ("rejected", INCORRECT)}  # names of the fields
_PAIR_FIELDS = ("correct", "incorrect", "pair_id", "id", "subset", "domain", "language")


def write_plain_rows(paths: str | Sequence[str], folder: Path) -> Path:
    """Write the rows of all files as one file of plain rows in `folder`; once for each content.

    What lies at a URI is copied into `folder` as well. A pair whose id or texts came before is a
    problem of its own: the second of `p` is `p#2`.

    Raises:
        DataError: rows that are neither samples nor pairs, or a task_id again; names file and line.
    """
    sources = find_sources(paths, folder)
    key = "\0".join([str(_VERSION), *(source.key for source in sources)])
    path = folder / f"{blake2b(key.encode(), digest_size=8).hexdigest()}.jsonl"
    if path.exists():
        return path
    with atomic_path(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
        for row in _read_plain_rows(sources):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def to_pair_rows(row: Row) -> list[dict[str, Any]]:
    """The plain rows of a row; problem_id and task_id are those of a pair, or absent.

    A pair has `chosen` and `rejected`, or `correct` and `incorrect`: an answer each, or a list of
    them, all of which are compared. `pair_id` names the problem, of a plain row as well; `domain`
    or `subset` is kept as metadata.source.

    Raises:
        RowFault: one side of a pair is missing, or is no answer.
    """
    if not isinstance(row, dict):
        raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
    about = _about(row)
    pair_id = optional_id(row, "pair_id")
    if "output" in row or "completion" in row or not _has_side(row):
        named = {} if pair_id is None else {"problem_id": pair_id}
        return [dict(plain) | about | named for plain in to_plain_rows(row)]
    texts = {side: _answers(row, side) for side in (CORRECT, INCORRECT)}
    shared = {key: row[key] for key in ("prompt", "input") if key in row}
    # One side's answers beside the first of the other: conventions know pairs of one and one.
    plain = {
        CORRECT: [_one_pair(shared, text, texts[INCORRECT][0])[0] for text in texts[CORRECT]],
        INCORRECT: [_one_pair(shared, texts[CORRECT][0], text)[1] for text in texts[INCORRECT]],
    }
    rows = [(side, number, one) for side in plain for number, one in enumerate(plain[side])]
    problem_id = pair_id or _name([one for _, _, one in rows])
    return [
        dict(one) | about | {"problem_id": problem_id, "task_id": f"{problem_id}#{side}.{number}"}
        for side, number, one in rows
    ]


def _read_plain_rows(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    problems: list[str] = []
    kinds = Counter[str]()
    again = Counter[str]()
    taken: dict[str, str] = {}
    for source in sources:
        for number, line in enumerate(read_lines(source, columns=_PAIR_FIELDS), start=1):
            if not line or line.isspace():
                continue
            try:
                row = parse_line(line)
                plain = _numbered(to_pair_rows(row), again)  # type: ignore[arg-type]
                for one in plain:
                    check_row(one)
                    _refuse_taken(one, source.location(number), taken)
            except RowFault as fault:
                kinds[kind_of(str(fault))] += 1
                if len(problems) < MAX_LISTED:
                    problems.append(f"{source.location(number)}: {fault}")
                continue
            if not problems:
                yield from plain
    if problems:
        raise DataError(problems, total=kinds.total(), kinds=kinds)


def _numbered(plain: list[dict[str, Any]], again: Counter[str]) -> list[dict[str, Any]]:
    """A pair whose name came before, under another: answers of two pairs are never compared."""
    if len(plain) < 2:
        return plain
    name = plain[0]["problem_id"]
    again[name] += 1
    if again[name] == 1:
        return plain
    while again[other := f"{name}#{again[name]}"]:
        again[name] += 1
    again[other] += 1
    return [
        one | {"problem_id": other, "task_id": other + one["task_id"].removeprefix(name)}
        for one in plain
    ]


def _refuse_taken(one: Row, where: str, taken: dict[str, str]) -> None:
    # NOTE: the index would tell of it too, but by the lines of a file that the user never wrote.
    task_id = optional_id(one, "task_id")
    if task_id is None:
        return
    first = taken.setdefault(task_id, where)
    if first != where:
        raise RowFault(
            f"'task_id' {shorten(task_id)} is taken by {first}; every row needs its own, or none"
        )


def _about(row: Row) -> dict[str, Any]:
    """The metadata, with what benchmarks say beside it."""
    metadata = dict(optional_object(row, "metadata"))
    for key, names in (("source", ("domain", "subset")), ("language", ("language",))):
        found = [row[name] for name in names if row.get(name) is not None]
        if found:
            metadata[key] = found[0]
    return {"metadata": metadata}


def _has_side(row: Row) -> bool:
    return any(name in row for names in _SIDES.values() for name in names)


def _answers(row: Row, side: str) -> list[object]:
    """The answers of a side: its one answer (a text, or messages), or each of a list of texts."""
    names = _SIDES[side]
    found = [row[name] for name in names if name in row]
    if not found:
        raise RowFault(f"{names[0]!r} is missing; a pair needs both a right and a wrong answer")
    value = found[0]
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return list(value)
    return [value]


def _one_pair(shared: Row, chosen: object, rejected: object) -> list[Row]:
    return to_plain_rows({**shared, "chosen": chosen, "rejected": rejected})


def _name(rows: Sequence[Row]) -> str:
    """Names a pair by its texts."""
    content = blake2b(digest_size=8)
    for row in rows:
        prompt = prompt_key(str(row["instruction"]), str(row.get("input") or ""))
        [answer] = output_keys([str(row["output"])])
        content.update(default_task_id(prompt, answer).encode())
    return content.hexdigest()
