"""Token ids in every prompt format, what truncation keeps, and what follows an output."""

from typing import Any

import pytest

from featurize.data.encoder import SampleEncoder, strip_thinking
from featurize.data.formats import Prompt
from featurize.errors import CriticError
from featurize.settings import PromptSettings
from tests.support.chat_templates import TEMPLATES, make_chat_tokenizer
from tests.support.tiny_models import make_tokenizer

TOKENIZER = make_chat_tokenizer()
LONG = "Read a number and print it. " * 200


def make_encoder(
    *, max_length: int = 400, max_prompt_length: int = 300, template: str = "", **prompt: Any
) -> SampleEncoder:
    if template:
        prompt = {"format": "jinja", "template": TEMPLATES.get(template, template)} | prompt
    return SampleEncoder(
        PromptSettings(**prompt),
        TOKENIZER,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )


def decode(ids: Any) -> str:
    return str(TOKENIZER.decode(ids))


def test_raw_is_the_statement_after_the_tokenizers_own_special_tokens() -> None:
    encoder = make_encoder(format="raw")
    found = encoder.encode(Prompt("Add 1", "and 2"), [" gives 3"])
    assert decode(found.prompt.ids) == "<s>Add 1\n\nand 2"
    assert decode(found.outputs[0].ids) == " gives 3"


def test_a_prompt_without_tokens_is_refused() -> None:
    encoder = SampleEncoder(
        PromptSettings(format="raw"), make_tokenizer(), max_length=64, max_prompt_length=32
    )
    assert encoder.encode(Prompt("a"), ["b"]).prompt.ids
    with pytest.raises(CriticError, match=r"the prompt '' .*prompt\.format to alpaca"):
        encoder.encode(Prompt(""), ["b"])


def test_raw_counts_outputs_that_merge_with_the_prompt() -> None:
    encoder = make_encoder(format="raw")
    prompt = "def add(a, b):\n"
    apart, joined = encoder.encode(Prompt(prompt), ["\n\nprint", "print"]).outputs
    whole = TOKENIZER(prompt + "\n\nprint")["input_ids"]
    ids = encoder.encode(Prompt(prompt), ["\n\nprint"])
    assert [*ids.prompt.ids, *apart.ids] != whole
    assert (apart.is_apart, joined.is_apart) == (True, False)


def test_alpaca_counts_outputs_that_merge_with_the_prompt() -> None:
    encoder = make_encoder()
    apart, joined = encoder.encode(Prompt("Add."), ["\n\nprint(1)", "print(1)"]).outputs
    assert (apart.is_apart, joined.is_apart) == (True, False)


@pytest.mark.parametrize("template", ["chatml", "llama3", "gemma"])
def test_a_cut_prompt_keeps_its_start_and_the_end_of_the_template(template: str) -> None:
    encoder = make_encoder(template=template)
    whole = make_encoder(template=template, max_length=9000, max_prompt_length=8000)
    prompt = Prompt(LONG)
    found, uncut = encoder.encode(prompt, ["x"]).prompt, whole.encode(prompt, ["x"]).prompt
    tail = encoder.format.tail
    assert (found.is_truncated, uncut.is_truncated) == (True, False)
    assert len(found.ids) == 300
    assert found.ids == uncut.ids[: 300 - len(tail)] + tail
    assert uncut.ids[-len(tail) :] == tail
    assert decode(tail).endswith(("assistant\n", "assistant<|end_header_id|>\n\n", "model\n"))


@pytest.mark.parametrize("template", ["llama3", "gemma", "mistral"])
def test_the_start_token_is_there_once(template: str) -> None:
    found = make_encoder(template=template).encode(Prompt("Add."), ["x"])
    assert found.prompt.ids.count(TOKENIZER.bos_token_id) == 1
    assert found.prompt.ids[0] == TOKENIZER.bos_token_id


def test_a_template_without_the_start_token_is_warned_of(caplog: Any) -> None:
    make_encoder(template="chatml")
    assert "'<s>'" in caplog.text
    assert "{{ bos_token }}" in caplog.text


def test_limits_must_leave_the_template_its_end() -> None:
    with pytest.raises(CriticError, match=r"max_prompt_length is 4 .* the \d tokens") as caught:
        make_encoder(template="llama3", max_prompt_length=4)
    assert "below max_length" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({}, ""),
        ({"end": "eos"}, "</s>"),
        ({"template": "chatml", "end": "turn"}, "<|im_end|>\n"),
        ({"template": "mistral", "end": "turn"}, "</s>"),
    ],
)
def test_what_follows_an_output_is_the_end_that_was_asked_for(settings: Any, end: str) -> None:
    encoder = make_encoder(**settings)
    assert decode(encoder.suffix.end) == end
    assert encoder.encode(Prompt("a"), ["b"]).outputs[0].ids[-1:] != encoder.suffix.end[:1]


def test_a_question_in_a_chat_is_a_turn_of_the_user() -> None:
    for end in ("none", "turn"):
        encoder = make_encoder(
            template="chatml", end=end, question="Is it </s> right?", answers=["Y", "N"]
        )
        assert decode(encoder.suffix.ids) == (
            "<|im_end|>\n<|im_start|>user\nIs it </s> right?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert TOKENIZER.eos_token_id not in encoder.suffix.ids
        assert encoder.suffix.answers == tuple(
            TOKENIZER(["Y", "N"], add_special_tokens=False)["input_ids"][n][0] for n in (0, 1)
        )


def test_a_question_outside_a_chat_follows_the_output() -> None:
    alpaca = make_encoder(question="Right?", answers=["Y", "N"])
    assert decode(alpaca.suffix.ids) == "\n\n### Instruction:\nRight?\n\n### Response:\n"
    raw = make_encoder(format="raw", end="eos", question="Right?", answers=["Y", "N"])
    assert decode(raw.suffix.ids) == "</s>\n\nRight?"


def test_an_answer_of_several_tokens_is_refused() -> None:
    with pytest.raises(CriticError, match=r"prompt.answers has ' Perhaps', which is \d+ tokens"):
        make_encoder(question="Right?", answers=["Y", " Perhaps"])


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>\na\n</think>\n\nb", "b"),
        ("a\n</think>\nb", "b"),  # the prompt opened it
        ("b", "b"),
        ("<think>a", "<think>a"),
        ("print('<think>x</think>')", "print('<think>x</think>')"),
    ],
)
def test_thinking_is_removed_from_the_start_alone(text: str, rest: str) -> None:
    assert strip_thinking(text) == rest
    (found,) = make_encoder(think="strip").encode(Prompt("a"), [text]).outputs
    assert decode(found.ids) == rest
    assert found.is_stripped is (text != rest)


def test_thinking_without_an_answer_is_refused() -> None:
    with pytest.raises(CriticError, match=r"nothing after its thinking.*prompt.think=keep"):
        strip_thinking("<think>a</think>\n ")


def test_a_template_that_rewrites_the_prompt_is_refused_with_the_remedy() -> None:
    with pytest.raises(CriticError, match="rewrites the prompt") as caught:
        make_encoder(template="reasoner").encode(Prompt("a"), ["b"])
    assert "prompt.chat_template_kwargs" in str(caught.value)


def test_a_template_that_drops_thinking_is_refused_unless_it_is_stripped() -> None:
    template = TEMPLATES["reasoner"].replace("<think>\n{% endif %}", "{% endif %}")
    text = "<think>a</think>b"
    with pytest.raises(CriticError, match=r"changes the output .*prompt\.think=strip"):
        make_encoder(template=template).encode(Prompt("a"), [text])
    (found,) = make_encoder(template=template, think="strip").encode(Prompt("a"), [text]).outputs
    assert decode(found.ids) == "b"


def test_variables_reach_the_template() -> None:
    def prompt(**variables: Any) -> str:
        encoder = make_encoder(template="qwen", chat_template_kwargs=variables or None)
        return decode(encoder.encode(Prompt("a"), ["b"]).prompt.ids)

    assert prompt().endswith("assistant\n")
    assert prompt(enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_system_message_is_added_where_there_is_none() -> None:
    encoder = make_encoder(template="chatml", system="Judge </s>.")
    found = decode(encoder.encode(Prompt("a"), ["b"]).prompt.ids)
    assert found.startswith("<|im_start|>system\nJudge </s>.<|im_end|>\n<|im_start|>user\na")
    own = Prompt("", "", (("system", "Own."), ("user", "a")))
    assert "Judge" not in decode(encoder.encode(own, ["b"]).prompt.ids)


def test_templates_do_not_see_the_date_of_the_day() -> None:
    template = "{{ bos_token }}{{ strftime_now('%Y') }}" + TEMPLATES["chatml"]
    found = make_encoder(template=template).encode(Prompt("a"), ["b"])
    assert decode(found.prompt.ids).startswith("<s>26 Jul 2024<|im_start|>system")


def test_a_refusal_of_the_template_is_reported_in_its_own_words() -> None:
    prompt = Prompt("", "", (("user", "a"), ("user", "b")))
    with pytest.raises(CriticError, match=r"user, user \(Conversation roles must alternate"):
        make_encoder(template="gemma").encode(prompt, ["c"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'x' * 10 ** 20 }}", r"cannot fit 'int'|OverflowError|MemoryError"),
        ("{% include '/etc/hostname' %}", "no loader"),
    ],
)
def test_whatever_goes_wrong_in_a_template_is_a_refusal(fault: str, reason: str) -> None:
    with pytest.raises(CriticError, match=f"the chat template refuses .*({reason})"):
        make_encoder(template=fault)


@pytest.mark.parametrize("prompt", ["", "Solve it: "])
def test_a_template_that_leaves_out_the_statement_is_refused(prompt: str) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}"
        "{% else %}" + prompt + "{% endif %}{% endfor %}"
    )
    with pytest.raises(CriticError, match="does not write the message of the user"):
        make_encoder(template=template)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(CriticError, match=r"prompt.format is chat, but .* prompt.format=jinja"):
        make_encoder(format="chat")


def test_a_template_that_leaves_out_answers_is_refused() -> None:
    with pytest.raises(CriticError, match="does not write an answer"):
        make_encoder(template="{% for m in messages %}{{ m.role }}{% endfor %}")


@pytest.mark.parametrize("pad_is_eos", [True, False])
def test_padding_with_the_end_token_changes_nothing(pad_is_eos: bool) -> None:
    tokenizer = make_chat_tokenizer(pad_is_eos=pad_is_eos)
    encoder = SampleEncoder(
        PromptSettings(format="jinja", template=TEMPLATES["mistral"], end="eos"),
        tokenizer,
        max_length=400,
        max_prompt_length=300,
    )
    found = encoder.encode(Prompt("a"), ["b </s>", "c"])
    assert found == make_encoder(template="mistral", end="eos").encode(Prompt("a"), ["b </s>", "c"])
    assert encoder.suffix.end == (tokenizer.eos_token_id,)
