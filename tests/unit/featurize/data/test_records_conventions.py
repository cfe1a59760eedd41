"""Preference and unpaired rows of the TRL conventions become plain samples."""

import pytest

from featurize.errors import RowFault
from tests.support.indexed import parse_row


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


PAIR = {"prompt": "Add.", "chosen": "good", "rejected": "bad"}


def texts_of(row):
    return [(s.instruction, s.output, s.is_correct) for s in parse_row(row)]


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {
            "prompt": [user("Add.")],
            "chosen": [assistant("good")],
            "rejected": [assistant("bad")],
        },
        {
            "chosen": [user("Add."), assistant("good")],
            "rejected": [user("Add."), assistant("bad")],
        },
        {
            "prompt": "Add.",
            "chosen": [user("Add."), assistant("good")],
            "rejected": [user("Add."), assistant("bad")],
        },
    ],
    ids=["strings", "messages", "implicit prompt", "prompt twice"],
)
def test_a_preference_row_gives_a_correct_and_an_incorrect_sample(row):
    assert texts_of(row) == [("Add.", "good", True), ("Add.", "bad", False)]


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
    assert texts_of(row) == [("You write C.\n\nAdd.", "code", None)]


@pytest.mark.parametrize("label", [True, False, None])
def test_an_unpaired_row_takes_its_label(label):
    row = {"prompt": "Add.", "completion": "code", "label": label, "task_id": "t"}
    [sample] = parse_row(row)
    assert (sample.is_correct, sample.task_id) == (label, "t")


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
        (PAIR | {"chosen": [user("Add.")]}, "its last message must be the answer"),
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
            "'label' is 'yes' (a string); write true or false, or null",
        ),
        ({"prompt": "Add."}, "'instruction' is missing; every row needs the task to solve"),
    ],
)
def test_a_bad_preference_or_unpaired_row_is_told_in_its_own_words(row, message):
    with pytest.raises(RowFault) as caught:
        parse_row(row)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
