"""The template of Alpaca, and its token ids under truncation."""

import itertools

import pytest
from tokenizers import processors

import featurize.data.prompt as prompt_module
from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Prompt
from featurize.data.prompt import RESPONSE_MARK, render_prompt, template_digest
from featurize.settings import PromptSettings
from tests.support.tiny_models import BOS, EOS, make_tokenizer

LONG = "Read numbers and print their sum. " * 40
TAIL = len(make_tokenizer()(RESPONSE_MARK)["input_ids"])


def make_encoder(
    *, max_length: int = 200, max_prompt_length: int = 150, adds: str | None = None
) -> SampleEncoder:
    """Make an encoder whose tokenizer `adds` nothing, a start ("bos") or start and end ("eos")."""
    tokenizer = make_tokenizer(adds_bos=adds is not None)
    if adds == "eos":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 0), (EOS, 1)]
        )
    return SampleEncoder(
        PromptSettings(), tokenizer, max_length=max_length, max_prompt_length=max_prompt_length
    )


def decode(encoder: SampleEncoder, ids) -> str:
    return encoder.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def test_a_prompt_is_the_alpaca_template():
    assert render_prompt("Add.") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    assert render_prompt("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )


@pytest.mark.parametrize("text", ["{}", "{input}", "{instruction}", "{{x}}", "%s \\1 {0}", ""])
def test_braces_and_marks_in_a_statement_stay_as_they_are(text):
    frame = render_prompt("@")
    assert render_prompt(text) == frame.replace("@", text)
    frame = render_prompt("@", "#1")
    for instruction, input_text in itertools.product([text, "a"], [text or "b", "{}"]):
        expected = input_text.join(frame.replace("#1", "\0").split("\0"))
        assert render_prompt(instruction, input_text) == instruction.join(expected.split("@"))


@pytest.mark.parametrize("name", ["TEMPLATE", "TEMPLATE_WITH_INPUT"])
def test_the_digest_depends_on_both_templates(monkeypatch, name):
    before = template_digest()
    assert template_digest() == before
    monkeypatch.setattr(prompt_module, name, getattr(prompt_module, name) + " ")
    assert template_digest() != before


@pytest.mark.parametrize("adds", [None, "bos", "eos"])
def test_texts_that_fit_are_whole_and_have_special_tokens_only_at_the_start(adds):
    encoder = make_encoder(max_length=2000, max_prompt_length=1000, adds=adds)
    outputs = ["print(1)\n", " é\u2028", "\t"]
    found = encoder.encode(Prompt("Größer {x}", "5\u2028"), outputs)
    start = "" if adds is None else BOS
    assert decode(encoder, found.prompt.ids) == start + render_prompt("Größer {x}", "5\u2028")
    assert [decode(encoder, one.ids) for one in found.outputs] == outputs
    assert not any(one.is_truncated for one in (found.prompt, *found.outputs))


@pytest.mark.parametrize("adds", [None, "bos", "eos"])
def test_a_prompt_too_long_keeps_its_start_and_the_response_mark(adds):
    encoder = make_encoder(adds=adds)
    prompt = encoder.encode(Prompt(LONG), []).prompt
    text = decode(encoder, prompt.ids)
    assert (len(prompt.ids), prompt.is_truncated) == (encoder.max_prompt_length, True)
    assert text.endswith(RESPONSE_MARK)
    start = "" if adds is None else BOS
    assert (start + render_prompt(LONG)).startswith(text.removesuffix(RESPONSE_MARK))


def test_prompts_and_outputs_are_truncated_only_above_their_limits():
    text = "x = 1234567890\n" * 40
    whole = make_encoder(max_length=9000, max_prompt_length=1000).encode(Prompt("Add."), [text])
    prompt, output = len(whole.prompt.ids), whole.outputs[0].ids
    for shorter in (0, 1):
        limits = {"max_prompt_length": prompt - shorter, "max_length": prompt + len(output)}
        found = make_encoder(**limits).encode(Prompt("Add."), [text])
        assert (len(found.prompt.ids), found.prompt.is_truncated) == (prompt - shorter, shorter > 0)
        assert (found.outputs[0].ids, found.outputs[0].is_truncated) == (output, False)
    [cut] = (
        make_encoder(max_length=prompt + 9, max_prompt_length=prompt)
        .encode(Prompt("Add."), [text])
        .outputs
    )
    assert (cut.ids, cut.is_truncated) == (output[:9], True)


def test_ids_do_not_depend_on_the_other_outputs():
    encoder = make_encoder()
    outputs = ["print(1)\n", "x" * 400, " é\u2028{}", "\n"]
    together = encoder.encode(Prompt(LONG, "5"), outputs)
    for output, encoded in zip(outputs, together.outputs, strict=True):
        alone = encoder.encode(Prompt(LONG, "5"), [output])
        assert (alone.prompt, *alone.outputs) == (together.prompt, encoded)


def test_even_the_longest_prompt_leaves_an_output_one_token():
    encoder = make_encoder(max_length=TAIL + 2, max_prompt_length=TAIL + 1)
    found = encoder.encode(Prompt(LONG), ["print(1)"])
    assert len(found.prompt.ids) == TAIL + 1
    assert [(len(one.ids), one.is_truncated) for one in found.outputs] == [(1, True)]


def test_an_output_without_tokens_is_refused():
    with pytest.raises(ValueError, match="output '' has no tokens"):
        make_encoder().encode(Prompt("a"), ["a", ""])


@pytest.mark.parametrize(
    ("max_prompt_length", "max_length"), [(TAIL, 100), (1, 100), (100, 100), (101, 100)]
)
def test_limits_that_leave_no_room_are_refused(max_prompt_length, max_length):
    message = rf"max_prompt_length is {max_prompt_length} .*max_length {max_length};.* {TAIL} token"
    with pytest.raises(ValueError, match=message):
        make_encoder(max_length=max_length, max_prompt_length=max_prompt_length)
