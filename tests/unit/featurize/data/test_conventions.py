"""Preference and unpaired rows of the TRL conventions become plain samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.index import DatasetIndex
from featurize.data.pair_rows import to_pair_rows
from featurize.errors import RowFault
from tests.support.indexed import parse_row
from tests.support.row_files import write_rows


def user(content: str) -> dict[str, str]:
    return {"content": content, "role": "user"}


def assistant(content: str) -> dict[str, str]:
    return {"content": content, "role": "assistant"}


TEXTS = [
    {"prompt": "Add.", "chosen": "a + b", "rejected": "a - b"},
    {"prompt": "Double.", "chosen": "2 * a", "rejected": "a"},
]
MESSAGES = [
    {
        "prompt": [user(row["prompt"])],
        "chosen": [assistant(row["chosen"])],
        "rejected": [assistant(row["rejected"])],
    }
    for row in TEXTS
]
IMPLICIT = [
    {side: [user(row["prompt"]), assistant(row[side])] for side in ("chosen", "rejected")}
    for row in TEXTS
]
SCORED = [  # as UltraFeedback and the like have it
    {**row, "prompt": TEXTS[number]["prompt"], "score_chosen": 8.5, "messages": row["chosen"]}
    for number, row in enumerate(IMPLICIT)
]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in TEXTS
    for side in ("chosen", "rejected")
]
UNPAIRED_MESSAGES = [
    {**row, "prompt": [user(row["prompt"])], "completion": [assistant(row["completion"])]}
    for row in UNPAIRED
]
KINDS: dict[str, list[dict[str, Any]]] = {
    "preference": TEXTS,
    "preference messages": MESSAGES,
    "implicit prompt": IMPLICIT,
    "preference with scores": SCORED,
    "unpaired": UNPAIRED,
    "unpaired messages": UNPAIRED_MESSAGES,
}
EXPECTED = {
    ("Add.", "a + b", True), ("Add.", "a - b", False),
    ("Double.", "2 * a", True), ("Double.", "a", False),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_conventions_become_samples(tmp_path: Path, kind: str, ending: str):
    path = write_rows(tmp_path / f"in.{ending}", KINDS[kind])
    index = DatasetIndex.build(str(path), tmp_path / "cache")
    samples = index.read(np.arange(len(index)))
    assert {(s.instruction, s.output, s.is_correct) for s in samples} == EXPECTED
    assert (len(index), index.num_problems) == (4, 2)


def test_the_same_rows_have_one_fingerprint_in_every_convention(tmp_path: Path):
    fingerprints = {
        DatasetIndex.build(
            str(write_rows(tmp_path / f"{number}.parquet", rows)), tmp_path / "cache"
        ).content_fingerprint
        for number, rows in enumerate(KINDS.values())
    }
    assert len(fingerprints) == 1


def test_message_lists_in_large_and_dictionary_columns_are_read(tmp_path: Path):
    """As the datasets library and pandas write them."""
    message = pa.struct({"content": pa.large_string(), "role": pa.large_string()})
    schema = pa.schema(
        {
            "prompt": pa.dictionary(pa.int32(), pa.string()),
            "chosen": pa.large_list(message),
            "rejected": pa.large_list(message),
        }
    )
    rows = [{**row, "prompt": text["prompt"]} for row, text in zip(MESSAGES, TEXTS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "in.parquet")
    index = DatasetIndex.build(str(tmp_path / "in.parquet"), tmp_path / "cache")
    assert {(s.instruction, s.output) for s in index.read(np.arange(4))} == {
        (instruction, output) for instruction, output, _ in EXPECTED
    }


PAIR = TEXTS[0] | {"chosen": "good", "rejected": "bad"}


def test_both_sides_of_a_preference_share_all_but_text_label_and_id():
    row = PAIR | {"task_id": 7, "problem_id": "p", "metadata": {"language": "c"}, "input": "1"}
    chosen, rejected = parse_row(row)
    assert [chosen.task_id, rejected.task_id] == ["7-chosen", "7-rejected"]
    for sample in (chosen, rejected):
        assert (sample.problem_id, sample.language, sample.input) == ("p", "c", "1")


def test_sides_of_a_preference_without_ids_have_ids_of_their_own():
    chosen, rejected = parse_row(PAIR)
    assert chosen.task_id != rejected.task_id
    assert chosen.problem_id == rejected.problem_id


def test_system_and_user_messages_are_joined_to_one_prompt():
    system = {"role": "system", "content": "You write C."}
    row = {"prompt": [system, user("Add.")], "completion": [assistant("code")]}
    [sample] = parse_row(row)
    assert (sample.instruction, sample.output) == ("You write C.\n\nAdd.", "code")


@pytest.mark.parametrize("label", [True, False, None])
def test_an_unpaired_row_takes_its_label(label):
    row = {"prompt": "Add.", "completion": "code", "label": label, "task_id": "t"}
    [sample] = parse_row(row)
    assert (sample.is_correct, sample.task_id) == (label, "t")


ALPACA = {"instruction": "Add.", "input": "1 2", "chosen": "a + b", "rejected": "a - b"}
QUESTION = {"from": "human", "value": "Add."}
SHAREGPT = {
    "conversations": [QUESTION],
    "chosen": {"from": "gpt", "value": "a + b"},
    "rejected": {"from": "gpt", "value": "a - b"},
}
TRANSCRIPT = "\n\nHuman: Add.\n\nAssistant: "


def texts_of(row: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    return [(s.instruction, s.output, s.is_correct) for s in parse_row(row)]


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    "row",
    [
        {key: value for key, value in ALPACA.items() if key != "input"},
        ALPACA | {"input": "", "system": None, "history": []},
        SHAREGPT,
        SHAREGPT | {"system": ""},
        {**SHAREGPT, "conversations": [user("Add.")], "chosen": assistant("a + b")},
        {"messages": [user("Add.")], "chosen": "a + b", "rejected": "a - b"},
        {"prompt": user("Add."), "chosen": [assistant("a + b")], "rejected": assistant("a - b")},
        {"chosen": f"{TRANSCRIPT}a + b", "rejected": f"{TRANSCRIPT}a - b"},
        {"prompt": f"{TRANSCRIPT}".rstrip(), "chosen": " a + b", "rejected": " a - b"},
        {"prompt": json.dumps([user("Add.")]), "chosen": "a + b", "rejected": "a - b"},
        {
            "chosen": json.dumps([user("Add."), assistant("a + b")]),
            "rejected": json.dumps([user("Add."), assistant("a - b")]),
        },
        TEXTS[0] | {"prompt": [{"role": "User", "content": "Add."}]},
        TEXTS[0]
        | {"prompt": [{"role": "user", "content": [{"type": "input_text", "text": "Add."}]}]},
        {**TEXTS[0], "output": None, "completion": None, "conversations": None},
        {
            "prompt": [{"role": "user", "content": parts("Ad", "d.")}],
            "chosen": [{"role": "assistant", "content": parts("a + b")}],
            "rejected": [{"role": "assistant", "content": "a - b"}],
        },
    ],
    ids=lambda row: "-".join(row),
)
def test_preference_rows_of_other_tools_become_the_same_samples(row: dict[str, Any]):
    assert texts_of(row) == [("Add.", "a + b", True), ("Add.", "a - b", False)]


def test_the_input_of_an_instruction_belongs_to_both_sides():
    assert [(s.instruction, s.input) for s in parse_row(ALPACA)] == [("Add.", "1 2")] * 2
    plain = parse_row({"instruction": "Add.", "input": "1 2", "output": "a + b"})
    assert parse_row(ALPACA)[0].problem_id == plain[0].problem_id


PLAIN = {"instruction": "Add.", "output": "a + b"}


@pytest.mark.parametrize(
    "row",
    [ALPACA | {"input": ""}, SHAREGPT, TEXTS[0], UNPAIRED[0], IMPLICIT[0], PLAIN],
    ids=["alpaca", "sharegpt", "preference", "unpaired", "implicit", "plain"],
)
def test_a_system_column_comes_before_the_prompt(row: dict[str, Any]):
    expected = "You write C.\n\nAdd."
    assert {s.instruction for s in parse_row(row | {"system": "You write C."})} == {expected}


def test_a_system_column_that_the_prompt_begins_with_is_not_repeated():
    row = {"prompt": "You write C. Add.", "completion": "a + b", "system": "You write C."}
    assert texts_of(row) == [("You write C. Add.", "a + b", None)]


def test_the_history_of_a_plain_row_is_part_of_its_conversation():
    row = PLAIN | {"history": [["Hi", "Hello"]], "system": "You write C."}
    [sample] = parse_row(row, keeps_turns=True)
    assert [text for _, text in sample.messages] == ["You write C.", "Hi", "Hello", "Add."]
    with pytest.raises(RowFault, match=r"'history' is .* set prompt\.format to chat"):
        parse_row(row)


def test_a_system_column_that_is_no_text_says_nothing_of_a_plain_row():
    row = PLAIN | {"system": {"os": "linux"}, "history": ["commit 1"]}
    assert texts_of(row) == [("Add.", "a + b", None)]


def test_calls_and_results_of_tools_are_turns_of_a_conversation():
    turns = [("human", "Add."), ("function_call", "f()"), ("observation", "3"), ("gpt", "It is 3.")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    [sample] = parse_row(row, keeps_turns=True)
    assert [role for role, _ in sample.messages] == ["user", "assistant", "tool"]
    with pytest.raises(RowFault, match=r"\"tool\".* prompt.format to chat"):
        parse_row(row)


def test_an_answer_that_is_json_but_no_messages_stays_as_it_is():
    for answer in ('[{"role": "admin", "id": 1}]', "[{'role': 'user'}]", json.dumps([user("x")])):
        row = {"prompt": "Write the roles.", "completion": answer}
        assert texts_of(row) == [("Write the roles.", answer, None)]


@pytest.mark.parametrize("label", [True, False, None])
def test_a_conversation_is_its_last_message_after_those_before_it(label: bool | None):
    answer = {"from": "gpt", "value": "a + b"}
    rows = [
        {"conversations": [QUESTION, answer], "label": label},
        {"messages": [user("Add."), assistant("a + b")], "is_correct": label},
        {"instruction": "Add.", "completion": "a + b", "label": label},
    ]
    assert [texts_of(row) for row in rows] == [[("Add.", "a + b", label)]] * 3


def test_an_answer_of_a_transcript_keeps_its_spaces():
    text = f"{TRANSCRIPT}\n  return a\n"
    [chosen, _] = parse_row({"chosen": text, "rejected": f"{TRANSCRIPT}b"})
    assert chosen.output == "\n  return a\n"


def test_a_code_that_speaks_of_an_assistant_is_no_transcript():
    code = "print('x')\n\nAssistant: y"
    assert texts_of({"prompt": "Add.", "completion": code}) == [("Add.", code, None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "Add.", "chosen": "good"},
            "'rejected' is missing; a preference row needs both 'chosen' and 'rejected'",
        ),
        (
            {"chosen": "good", "rejected": "bad"},
            "'prompt' is missing; 'chosen' is a string and does not say what it answers",
        ),
        (
            {"chosen": [assistant("good")], "rejected": [assistant("bad")]},
            "'prompt' is missing; the messages of 'chosen' hold no prompt before the answer",
        ),
        (PAIR | {"rejected": " "}, "'rejected' is empty (' '); give the program text or drop"),
        (PAIR | {"chosen": 3}, "'chosen' is 3 (a number); it must be a string"),
        (PAIR | {"chosen": []}, "'chosen' is []; its last message must be the answer, of role"),
        (PAIR | {"chosen": [user("Add.")]}, "'chosen' is ["),
        (
            PAIR | {"chosen": ["good"]},
            "'chosen' holds 'good' (a string); every message must be an object with 'role' and",
        ),
        (PAIR | {"chosen": [assistant(None)]}, "'chosen' is null; it must be a string"),
        (
            PAIR | {"chosen": [user("Subtract."), assistant("good")]},
            "'chosen' starts with another prompt ('Subtract.') than 'prompt' ('Add.'); drop one",
        ),
        (
            {
                "chosen": [user("Add."), assistant("good")],
                "rejected": [user("Take."), assistant("bad")],
            },
            "'chosen' and 'rejected' answer different prompts ('Add.' and 'Take.')",
        ),
        (
            {"prompt": [user("a"), assistant("b"), user("c")], "completion": "d"},
            '\'prompt\' has the roles ["user", "assistant", "user"] before the answer; only',
        ),
        (
            {"prompt": "Add.", "completion": "code", "label": "yes"},
            "'label' is 'yes' (a string); ",
        ),
        ({"prompt": "Add."}, "'instruction' is missing"),
        (ALPACA | {"history": [["a", "b"]]}, '\'history\' is [["a", "b"]]; only single-turn'),
        (
            {"chosen": f"{TRANSCRIPT}a\n\nHuman: b\n\nAssistant: c", "rejected": TRANSCRIPT},
            '\'chosen\' has the roles ["user", "assistant", "user"]',
        ),
        (
            {"chosen": f"{TRANSCRIPT}a", "rejected": "\n\nHuman: Take.\n\nAssistant: b"},
            "'chosen' and 'rejected' answer",
        ),
        (SHAREGPT | {"chosen": {"text": "a"}}, '\'chosen\' holds {"text": "a"} (an object); every'),
        (SHAREGPT | {"chosen": 7}, "'chosen' is 7 (a number); it must be a string"),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
                "completion": "a",
            },
            '\'prompt\' holds the part {"type": "image_url"',
        ),
        (
            TEXTS[0] | {"prompt": "[{'role': 'user', 'content': 'Add.'}]"},
            "which begins like a list of messages but is not JSON",
        ),
        (
            TEXTS[0] | {"prompt": [user("Add."), {"role": "tool", "content": "3"}]},
            '\'prompt\' has the roles ["user", "tool"]',
        ),
        (TEXTS[0] | {"images": ["a.png"]}, "'images' is [\"a.png\"] (a list); only text"),
        (PLAIN | {"images": [{"bytes": ""}]}, "'images' is [{"),
        (SHAREGPT | {"tools": '[{"name": "f"}]'}, "'tools' is "),
        (
            {"messages": [user("Add."), assistant("3") | {"reasoning": "1 + 2"}]},
            "with 'reasoning' ('1 + 2')",
        ),
        (PLAIN | TEXTS[0], "'output' is 'a + b' (a string) beside 'chosen' and 'rejected'"),
        ({"conversations": [QUESTION]}, '\'conversations\' is [{"role": "user"'),
        ({"messages": []}, "'messages' is []"),
        ({"conversations": None}, "'conversations' is null; it must be"),
    ],
)
def test_a_bad_row_of_any_convention_is_refused_with_value_and_remedy(
    row: dict[str, Any], message: str
):
    with pytest.raises(RowFault) as caught:
        parse_row(row)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_pairs_of_benchmarks_are_read_from_rows_of_other_tools():
    for row in (ALPACA, SHAREGPT):
        right, wrong = to_pair_rows(row | {"id": 3})
        assert (right["output"], wrong["output"]) == ("a + b", "a - b")
        assert right["problem_id"] == wrong["problem_id"]
