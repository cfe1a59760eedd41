"""The text of the prompt, and token ids under truncation."""

import itertools

import pytest
from tokenizers import processors

import featurize.data.prompt as prompt_module
from featurize.data.prompt import RESPONSE_MARK, Encoder, render_prompt, template_digest
from tests.support.tiny_models import BOS, EOS, make_tokenizer

LONG = "Read numbers and print their sum. " * 40
TAIL = len(make_tokenizer()(RESPONSE_MARK)["input_ids"])


def make_encoder(*, max_length: int = 200, max_prompt_length: int = 150, adds=None) -> Encoder:
    """Make an encoder whose tokenizer `adds` nothing, a start ("bos") or start and end ("eos")."""
    tokenizer = make_tokenizer(adds_bos=adds is not None)
    if adds == "eos":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 0), (EOS, 1)]
        )
    return Encoder(tokenizer=tokenizer, max_length=max_length, max_prompt_length=max_prompt_length)


def decode(encoder: Encoder, ids) -> str:
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
def test_a_prompt_that_fits_is_not_truncated(adds):
    encoder = make_encoder(max_length=2000, max_prompt_length=1000, adds=adds)
    prompt = encoder.encode_prompt("Größer {x}", "5\u2028")
    start = "" if adds is None else BOS
    assert decode(encoder, prompt.ids) == start + render_prompt("Größer {x}", "5\u2028")
    assert prompt.is_truncated is False


@pytest.mark.parametrize("adds", [None, "bos", "eos"])
def test_a_prompt_too_long_keeps_its_start_and_the_response_mark(adds):
    encoder = make_encoder(adds=adds)
    prompt = encoder.encode_prompt(LONG)
    text = decode(encoder, prompt.ids)
    assert len(prompt.ids) == encoder.max_prompt_length
    assert prompt.is_truncated is True
    assert text.endswith(RESPONSE_MARK)
    start = "" if adds is None else BOS
    assert (start + render_prompt(LONG)).startswith(text.removesuffix(RESPONSE_MARK))


def test_a_prompt_is_truncated_only_above_its_limit():
    length = len(make_encoder(max_length=2000, max_prompt_length=1000).encode_prompt("Add.").ids)
    exact = make_encoder(max_prompt_length=length, max_length=500).encode_prompt("Add.")
    assert (len(exact.ids), exact.is_truncated) == (length, False)
    below = make_encoder(max_prompt_length=length - 1, max_length=500).encode_prompt("Add.")
    assert (len(below.ids), below.is_truncated) == (length - 1, True)


def test_the_ids_of_a_prompt_do_not_depend_on_the_outputs():
    encoder = make_encoder()
    before = encoder.encode_prompt(LONG, "5")
    encoder.encode_outputs(["a", "print(1)\n" * 100], len(before.ids))
    assert encoder.encode_prompt(LONG, "5") == before


def test_the_ids_of_an_output_do_not_depend_on_the_other_outputs():
    encoder = make_encoder()
    outputs = ["print(1)\n", "x" * 400, " é\u2028{}", "\n"]
    together = encoder.encode_outputs(outputs, 120)
    for output, encoded in zip(outputs, together, strict=True):
        assert encoder.encode_outputs([output], 120) == [encoded]
    reverse = encoder.encode_outputs(outputs[::-1], 120)
    assert reverse == together[::-1]


@pytest.mark.parametrize("adds", [None, "bos", "eos"])
def test_outputs_that_fit_have_no_special_tokens_and_are_not_truncated(adds):
    encoder = make_encoder(max_length=2000, adds=adds)
    outputs = ["print(1)\n", " é\u2028", "\t"]
    encoded = encoder.encode_outputs(outputs, 10)
    assert [decode(encoder, one.ids) for one in encoded] == outputs
    assert not any(one.is_truncated for one in encoded)


def test_an_output_is_truncated_to_the_tokens_that_the_prompt_leaves():
    encoder = make_encoder(max_length=200)
    text = "x = 1234567890\n" * 40
    [whole] = make_encoder(max_length=9000).encode_outputs([text], 0)
    for num_prompt_tokens in (0, 100, 149):
        [cut] = encoder.encode_outputs([text], num_prompt_tokens)
        assert cut.ids == whole.ids[: 200 - num_prompt_tokens]
        assert cut.is_truncated is True
    [exact] = make_encoder(max_length=len(whole.ids) + 9).encode_outputs([text], 9)
    assert (exact.ids, exact.is_truncated) == (whole.ids, False)


def test_even_the_longest_prompt_leaves_an_output_one_token():
    encoder = make_encoder(max_length=TAIL + 2, max_prompt_length=TAIL + 1)
    prompt = encoder.encode_prompt(LONG)
    assert len(prompt.ids) == TAIL + 1
    [output] = encoder.encode_outputs(["print(1)"], len(prompt.ids))
    assert (len(output.ids), output.is_truncated) == (1, True)


def test_an_output_without_tokens_is_refused():
    with pytest.raises(ValueError, match="output '' has no tokens; remove the row"):
        make_encoder().encode_outputs(["a", ""], 10)


@pytest.mark.parametrize(
    ("max_prompt_length", "max_length"), [(TAIL, 100), (1, 100), (100, 100), (101, 100)]
)
def test_limits_that_leave_no_room_are_refused(max_prompt_length, max_length):
    message = rf"max_prompt_length is {max_prompt_length} .*max_length {max_length};.* {TAIL} token"
    with pytest.raises(ValueError, match=message):
        make_encoder(max_length=max_length, max_prompt_length=max_prompt_length)
