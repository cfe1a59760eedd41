"""A policy's text is split into problem and solution where it says so, and nowhere by a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.data.prompt import render_prompt
from featurize.errors import CriticError
from headtrain.scoring.server.requests import split_rendered
from headtrain.scoring.texts import TextRules

CHAT = TextRules(policy_template="<|user|>{prompt}<|assistant|>", ends=("<|end|>", "</s>"))
PLAIN = st.text(alphabet="ab{}\n#: ", max_size=20)


def test_a_query_is_its_prompt_and_the_solution_behind_it() -> None:
    found = CHAT.split_query(
        "<|user|>Add.<|assistant|>x = 1<|end|></s>", "<|user|>Add.<|assistant|>"
    )
    assert (found.prompt, found.input, found.output) == ("Add.", "", "x = 1")


@pytest.mark.parametrize(
    ("query", "prompt", "told"),
    [
        ("Add.x = 1", "add.", "does not begin with its prompt"),
        ("Add.x = 1", "Add.", "not in the template"),
        ("<|user|>", "<|user|>", "not in the template"),
    ],
)
def test_a_query_without_its_prompt_or_template_is_refused(
    query: str, prompt: str, told: str
) -> None:
    with pytest.raises(CriticError, match=told):
        CHAT.split_query(query, prompt)


@pytest.mark.parametrize("template", ["no place", "{prompt}{prompt}"])
def test_a_template_has_one_place_for_the_problem(template: str) -> None:
    with pytest.raises(CriticError, match="exactly once"):
        TextRules(policy_template=template)


@given(PLAIN, PLAIN, PLAIN)
def test_a_rendered_text_is_split_into_what_it_was_made_of(
    instruction: str, input_text: str, output: str
) -> None:
    found = split_rendered(render_prompt(instruction, input_text) + output, TextRules())
    assert (found.prompt, found.input, found.output) == (instruction, input_text, output)


@pytest.mark.parametrize(
    "text",
    [
        "Add.",
        render_prompt("Add.") + "x\n\n### Response:\ny",
        render_prompt("A\n\n### Response:\nB") + "x",
        render_prompt("A\n\n### Input:\nB", "1 2") + "x",
        "",
    ],
)
def test_a_text_that_could_be_split_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(CriticError, match="begin"):
        split_rendered(text, TextRules())


@given(st.text(alphabet="x<|end>", max_size=30))
def test_ends_are_removed_until_none_is_left(text: str) -> None:
    rules = TextRules(ends=("<|end|>", "", "x"))
    found = rules.to_output(text)
    assert text.startswith(found)
    assert not found.endswith(("<|end|>", "x"))
