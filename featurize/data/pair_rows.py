"""Rows of pair benchmarks turned into plain rows: each pair is a problem with its own id."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from featurize.arrays import Strings
from featurize.data.conventions import PROMPT_FIELDS, to_plain_rows
from featurize.data.fields import (
    Row,
    describe,
    is_blank,
    optional_id,
    optional_object,
    optional_text,
    scalar_to_text,
)
from featurize.data.records import check_row, default_task_id, output_key, parse_line, prompt_key
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import MAX_LISTED, DataError, RowFault, kind_of, shorten
from featurize.io.files import atomic_path

FACTS = "benchmark"
"""Field of a plain row that `to_pair_rows` makes: the facts of its pair."""

GROUPS = ("subset", "aspect", "language")
"""Names of the fields that groups of pairs are made of."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """A row of a benchmark: a prompt with correct and incorrect answers."""

    problem_id: str
    id: str
    """The benchmark's own id; the problem's if it has none."""
    subset: str | None
    aspect: str | None
    language: str | None
    correct: tuple[str, ...]
    """Task ids of its correct answers, in its order."""
    incorrect: tuple[str, ...]

    @property
    def is_pair(self) -> bool:
        """Whether it has one correct and one incorrect answer."""
        return len(self.correct) == len(self.incorrect) == 1


def read_facts(row: Row) -> dict[str, str]:
    """Read what a row of a benchmark says of itself, without fields that are no single value."""
    texts = {
        name: scalar_to_text(value)
        for name in ("id", *GROUPS)
        if isinstance(value := row.get(name), (str, int, float))
    }
    return {name: text for name, text in texts.items() if text is not None and not is_blank(text)}


def read_benchmark_rows(path: Path) -> list[BenchmarkRow]:
    """Read the rows of a benchmark back from the file that `write_plain_rows` made of them.

    Rows that are no pairs, such as samples, are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            if FACTS not in row:
                continue
            name = row["problem_id"]
            found = rows.setdefault(name, {**row[FACTS], "correct": [], "incorrect": []})
            found["correct" if row["is_correct"] else "incorrect"].append(row["task_id"])
    return [
        BenchmarkRow(
            problem_id=name,
            id=found.get("id", name),
            **{group: found.get(group) for group in GROUPS},
            correct=tuple(found["correct"]),
            incorrect=tuple(found["incorrect"]),
        )
        for name, found in rows.items()
    ]


def attribute_of(rows: Sequence[BenchmarkRow], name: str, problem_ids: Sequence[str]) -> Strings:
    """Get one of GROUPS for the problem of each sample, [samples]; None where it has none."""
    known = {row.problem_id: getattr(row, name) for row in rows}
    return np.array([known.get(problem_id) for problem_id in problem_ids], dtype=object)


JUDGE_FIELDS = (
    *("question", "response_A", "response_B", "label", "source"),
    *("question_content", "starter_code", "pos_response", "neg_response", "difficulty"),
)
"""Fields that are read here."""

_PAIR = ("prompt", "chosen", "rejected")
_VERDICTS = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}


def from_judge_row(row: Row) -> Row:
    """Return the pair of a row of JudgeBench or CodeJudgeBench; any other row as it is.

    JudgeBench (arXiv 2410.12784) has `question`, `response_A`, `response_B` and a `label` such as
    "A>B"; CodeJudgeBench (arXiv 2507.10535) has `question_content`, `starter_code`,
    `pos_response` and `neg_response`.

    Raises:
        RowFault: the label of two responses is not "A>B" or "B>A".
    """
    if "response_A" in row and "response_B" in row:
        return _from_verdict(row)
    if "pos_response" in row and "neg_response" in row:
        return _from_responses(row)
    return row


def _from_verdict(row: Row) -> Row:
    label = row.get("label")
    sides = _VERDICTS.get(label) if isinstance(label, str) else None
    if sides is None:
        raise RowFault(
            f"'label' is {describe(label)}; beside 'response_A' and 'response_B' it must be "
            '"A>B" or "B>A"; drop rows without a better answer'
        )
    pair = _rename(row, dict(zip(("question", *sides), _PAIR, strict=True)), "label")
    if row.get("source") is not None:
        pair.setdefault("subset", row["source"])
    return pair


def _from_responses(row: Row) -> Row:
    names = ("question_content", "pos_response", "neg_response")
    pair = _rename(row, dict(zip(names, _PAIR, strict=True)), "starter_code", "difficulty")
    if not is_blank(code := optional_text(row, "starter_code")):
        pair["input"] = code
    metadata = row.get("metadata") or {}
    if row.get("difficulty") is not None and isinstance(metadata, dict):  # else refused later
        pair["metadata"] = {"difficulty": row["difficulty"], **metadata}
    return pair


def _rename(row: Row, names: Mapping[str, str], *dropped: str) -> dict[str, object]:
    rest = {name: row[name] for name in row if name not in names and name not in dropped}
    return rest | {new: row[old] for old, new in names.items() if old in row}


CORRECT, INCORRECT = "correct", "incorrect"
"""Part of the task ids written here: `problem#correct.0` is the first correct answer."""

_VERSION = 3
_SIDES = {CORRECT: ("chosen", CORRECT), INCORRECT: ("rejected", INCORRECT)}  # field names
_PAIR_FIELDS = (
    *("correct", "incorrect", "pair_id", "id", "subset", "aspect", "domain", "language"),
    *JUDGE_FIELDS,
)


def write_plain_rows(
    paths: str | Sequence[str], folder: Path, *, keeps_turns: bool = False
) -> Path:
    """Write the rows of all files as one file of plain rows in `folder`; once for each content.

    Remote files are copied into `folder` as well. A pair whose id or texts are repeated becomes a
    problem of its own: the second `p` is `p#2`. With `keeps_turns`, prompts of several messages
    stay conversations.

    Raises:
        DataError: rows that are neither samples nor pairs, or repeated task ids; with file:line.
    """
    sources = find_sources(paths, folder)
    kind = [str(_VERSION), *(["turns"] if keeps_turns else [])]
    key = "\0".join([*kind, *(source.key for source in sources)])
    path = folder / f"{blake2b(key.encode(), digest_size=8).hexdigest()}.jsonl"
    if path.exists():
        return path
    with atomic_path(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
        for row in _read_plain_rows(sources, keeps_turns):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def to_pair_rows(row: object, *, keeps_turns: bool = False) -> list[dict[str, Any]]:
    """Return the plain rows of a row; pairs have problem_id and task_id, other rows may not.

    A pair has `chosen` and `rejected`, or `correct` and `incorrect`. Each is one answer or a list
    of answers; every correct answer is compared with every incorrect one. `pair_id` is the
    problem's id, for plain rows as well. `domain` or else `subset` becomes metadata.source. Rows of
    sets for judges, which name their answers otherwise, are read as pairs too. What a benchmark
    says of the pair is kept in the field `benchmark`, for `read_benchmark_rows`.

    Raises:
        RowFault: one side of a pair is missing or is not an answer.
    """
    if not isinstance(row, dict):
        raise RowFault(f"the row is {describe(row)}; every row must be one JSON object")
    row = from_judge_row(row)
    metadata = {"metadata": _metadata(row)}
    pair_id = optional_id(row, "pair_id")
    has_side = any(name in row for names in _SIDES.values() for name in names)
    if "output" in row or "completion" in row or not has_side:
        named = {} if pair_id is None else {"problem_id": pair_id}
        return [
            dict(plain) | metadata | named for plain in to_plain_rows(row, keeps_turns=keeps_turns)
        ]
    rows = _answer_rows(row, keeps_turns)
    problem_id = pair_id or _text_id([plain for _, plain in rows])
    shared = {**metadata, "problem_id": problem_id, FACTS: read_facts(row)}
    return [dict(plain) | shared | {"task_id": f"{problem_id}#{name}"} for name, plain in rows]


def _read_plain_rows(sources: Sequence[Source], keeps_turns: bool) -> Iterator[dict[str, Any]]:
    """Yield the plain rows of all files up to the first fault; raise after the last line."""
    problems: list[str] = []
    kinds = Counter[str]()
    times_seen = Counter[str]()
    taken: dict[str, str] = {}
    for source in sources:
        for number, line in enumerate(read_lines(source, columns=_PAIR_FIELDS), start=1):
            if not line or line.isspace():
                continue
            try:
                rows = to_pair_rows(parse_line(line), keeps_turns=keeps_turns)
                plain = _with_own_id(rows, times_seen)
                for one in plain:
                    check_row(one, keeps_turns=keeps_turns)
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


def _with_own_id(plain: list[dict[str, Any]], times_seen: Counter[str]) -> list[dict[str, Any]]:
    """Rename a pair whose problem id was used before: answers of two pairs are never compared."""
    if len(plain) < 2:
        return plain
    name = plain[0]["problem_id"]
    times_seen[name] += 1
    if times_seen[name] == 1:
        return plain
    while times_seen[other := f"{name}#{times_seen[name]}"]:
        times_seen[name] += 1
    times_seen[other] += 1
    return [
        one | {"problem_id": other, "task_id": other + one["task_id"].removeprefix(name)}
        for one in plain
    ]


def _refuse_taken(one: Row, location: str, taken: dict[str, str]) -> None:
    # NOTE: the index refuses it too, but it would name lines of a file that the user never wrote.
    task_id = optional_id(one, "task_id")
    if task_id is None:
        return
    first = taken.setdefault(task_id, location)
    if first != location:
        raise RowFault(
            f"'task_id' {shorten(task_id)} is taken by {first}; every row needs its own, or none"
        )


def _metadata(row: Row) -> dict[str, Any]:
    """Return the metadata, completed from fields that benchmarks have beside it."""
    metadata = dict(optional_object(row, "metadata"))
    for key, names in (("source", ("domain", "subset")), ("language", ("language",))):
        found = [row[name] for name in names if row.get(name) is not None]
        if found:
            metadata[key] = found[0]
    return metadata


def _answer_rows(row: Row, keeps_turns: bool) -> list[tuple[str, Row]]:
    """Return the plain row of every answer of a pair, with a name such as "correct.0"."""
    correct, incorrect = _answers(row, CORRECT), _answers(row, INCORRECT)
    shared = {key: row[key] for key in ("input", *PROMPT_FIELDS) if key in row}

    def plain(chosen: object, rejected: object) -> list[Row]:
        both = {**shared, "chosen": chosen, "rejected": rejected}
        return to_plain_rows(both, keeps_turns=keeps_turns)

    # to_plain_rows takes one answer a side, so each answer is paired with the other side's first.
    return [
        *((f"{CORRECT}.{n}", plain(text, incorrect[0])[0]) for n, text in enumerate(correct)),
        *((f"{INCORRECT}.{n}", plain(correct[0], text)[1]) for n, text in enumerate(incorrect)),
    ]


def _answers(row: Row, side: str) -> list[object]:
    """Return the answers of a side: one (a text or messages), or each text of a list."""
    names = _SIDES[side]
    found = [row[name] for name in names if name in row]
    if not found:
        raise RowFault(f"{names[0]!r} is missing; a pair needs a correct and an incorrect answer")
    value = found[0]
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return list(value)
    return [value]


def _text_id(rows: Sequence[Row]) -> str:
    """Hash the texts of a pair."""
    content = blake2b(digest_size=8)
    for row in rows:
        prompt = prompt_key(str(row["instruction"]), str(row.get("input") or ""))
        content.update(default_task_id(prompt, output_key(str(row["output"]))).encode())
    return content.hexdigest()
