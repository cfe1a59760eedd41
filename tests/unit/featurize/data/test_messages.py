"""Conversations in rows, as one text or kept as messages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.messages import to_messages
from featurize.data.pair_rows import write_plain_rows
from featurize.errors import DataError, RowFault
from tests.support.row_files import write_rows

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Add."}
ANSWERED = {"role": "assistant", "content": "a - b"}
AGAIN = {"role": "user", "content": "No, add."}
RIGHT = {"role": "assistant", "content": "a + b"}
WRONG = {"role": "assistant", "content": "b - a"}
TURNS = [SYSTEM, ASKED, ANSWERED, AGAIN]

ROWS = {
    "plain": {"instruction": TURNS, "output": "a + b", "is_correct": True},
    "preference": {"prompt": TURNS, "chosen": [RIGHT], "rejected": [WRONG]},
    "implicit prompt": {"chosen": [*TURNS, RIGHT], "rejected": [*TURNS, WRONG]},
    "unpaired": {"prompt": TURNS, "completion": [RIGHT], "label": True},
    "messages": {"messages": [*TURNS, RIGHT], "label": True},
    "history": {
        "instruction": "No, add.",
        "history": [["Add.", "a - b"]],
        "system": "Be brief.",
        "chosen": "a + b",
        "rejected": "b - a",
    },
}


def build(folder: Path, *rows: Any, keeps_turns: bool = True) -> DatasetIndex:
    path = write_rows(folder / "rows.jsonl", rows)
    return DatasetIndex.build(str(path), folder / "cache", keeps_turns=keeps_turns)


def to_pairs(messages: list[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((one["role"], one["content"]) for one in messages)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_convention_keeps_its_conversation(tmp_path: Path, row: Any) -> None:
    index = build(tmp_path, row)
    samples = index.read(np.arange(len(index)))
    assert {sample.messages for sample in samples} == {to_pairs(TURNS)}
    outputs = {sample.output: sample.is_correct for sample in samples}
    assert outputs.pop("a + b") is True
    assert outputs in ({}, {"b - a": False})


def test_the_outputs_of_a_conversation_are_one_problem(tmp_path: Path) -> None:
    index = build(tmp_path, *ROWS.values())
    assert index.num_problems == 1
    assert len(set(index.table["prompt_key"].to_pylist())) == 1


@pytest.mark.parametrize("row", list(ROWS.values())[1:], ids=list(ROWS)[1:])
def test_earlier_answers_are_refused_where_prompts_are_texts(tmp_path: Path, row: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*prompt\.format to chat"):
        build(tmp_path, row, keeps_turns=False)


def test_one_message_of_the_user_is_the_same_prompt_as_its_text(tmp_path: Path) -> None:
    rows = [{"prompt": [ASKED], "completion": "x"}, {"instruction": "Add.", "output": "y"}]
    index = build(tmp_path, *rows)
    assert index.num_problems == 1
    assert {sample.messages for sample in index.read(np.arange(2))} == {()}
    assert (
        index.content_fingerprint == build(tmp_path, *rows, keeps_turns=False).content_fingerprint
    )


def test_conversations_with_equal_texts_and_other_roles_are_two_prompts(tmp_path: Path) -> None:
    other = [{**SYSTEM, "role": "user"}, *TURNS[1:]]
    rows = [{"messages": [*turns, RIGHT]} for turns in (TURNS, other)]
    assert len(set(build(tmp_path, *rows).table["prompt_key"].to_pylist())) == 2


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": [SYSTEM], "completion": "x"}, ["'prompt'", "role 'user'"]),
        ({"prompt": [ASKED, ANSWERED], "completion": "x"}, ["'prompt'", "role 'assistant'"]),
        ({"instruction": "a", "history": ["b"], "completion": "x"}, ["'history'", "pairs"]),
    ],
)
def test_a_conversation_that_asks_nothing_is_refused(
    tmp_path: Path, row: Any, parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        build(tmp_path, row)
    assert all(part in str(caught.value) for part in ["rows.jsonl:1", *parts])


def test_pairs_of_a_benchmark_keep_their_conversations(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROWS["preference"]) + "\n")
    plain = write_plain_rows(str(path), tmp_path / "plain", keeps_turns=True)
    index = DatasetIndex.build(str(plain), tmp_path / "cache", keeps_turns=True)
    assert {sample.messages for sample in index.read(np.arange(2))} == {to_pairs(TURNS)}


UNREAD = {
    "tool_calls": [{"type": "function", "function": {"name": "run", "arguments": "{}"}}],
    "function_call": {"name": "run", "arguments": "{}"},
    "reasoning_content": "First I add.",
    "thinking": "First I add.",
}


@pytest.mark.parametrize(("name", "value"), UNREAD.items(), ids=UNREAD)
def test_a_part_of_a_message_that_would_be_dropped_is_refused(name: str, value: object) -> None:
    with pytest.raises(RowFault, match=rf"'messages' holds a message with '{name}' .* is not read"):
        to_messages([ASKED, {**RIGHT, name: value}], "messages")
    for empty in (None, [], ""):
        found = to_messages([ASKED, {**RIGHT, name: empty}], "messages")
        assert found == [("user", "Add."), ("assistant", "a + b")]
