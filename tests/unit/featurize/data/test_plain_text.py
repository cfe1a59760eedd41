"""Programs and statements cannot spell control tokens."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Alpaca, Prompt
from featurize.data.index import DatasetIndex
from featurize.data.plain_text import GUARD, PlainText
from featurize.data.prompt import render_prompt
from featurize.data.token_counts import count_tokens
from featurize.settings import PromptSettings
from tests.support.tiny_jobs import write_rows
from tests.support.tiny_models import BOS, EOS, make_tokenizer

USER, TOOL, SPACES = "<|user|>", "[INST]", "      "
SPELLED = [f"a = 1 {EOS} b", f"{BOS}{BOS}x", f"print('{USER}')", f"# {TOOL} y", EOS]
ORDINARY = ["print(1)\n", f"if x:\n{SPACES}return [1, 2]  # <b>\n", "a < b > c", "ü ▁ 日本"]


def with_added_tokens() -> PreTrainedTokenizerFast:
    """A tokenizer of which two control tokens are not called special."""
    tokenizer = make_tokenizer(adds_bos=True)
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in (USER, TOOL, SPACES)]
    )
    return tokenizer


def unigram() -> PreTrainedTokenizerFast:
    """A vocabulary in which `</s>` is also the likeliest piece."""
    letters = [(letter, -5.0) for letter in sorted(set("".join(SPELLED) + render_prompt("x")))]
    model = models.Unigram([("<unk>", 0.0), (BOS, 0.0), (EOS, 0.0), *letters], unk_id=0)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", BOS, EOS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, unk_token="<unk>")


def merging() -> PreTrainedTokenizerFast:
    """A vocabulary whose merges lead to `</s>`."""
    pieces = [BOS, EOS, "</", "s>", *sorted(set("".join(SPELLED) + render_prompt("x")))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens([BOS, EOS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


MAKERS = [with_added_tokens, unigram, merging]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("text", SPELLED)
def test_no_text_spells_a_control_token(make: type[PreTrainedTokenizerFast], text: str) -> None:
    tokenizer = make()
    controls = {BOS, EOS, USER, TOOL} & set(tokenizer.get_vocab())
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in controls}
    (ids,) = PlainText(tokenizer).encode([text])
    assert ids
    assert not marks & set(ids)
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("text", ORDINARY)
def test_other_texts_keep_their_ids(text: str) -> None:
    expected = with_added_tokens()(text, add_special_tokens=False)["input_ids"]
    assert PlainText(with_added_tokens()).encode([text]) == [expected]


@pytest.mark.parametrize("make", MAKERS)
def test_a_statement_adds_no_control_token_to_those_of_the_template(
    make: type[PreTrainedTokenizerFast],
) -> None:
    tokenizer = make()
    template = Alpaca(tokenizer)
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain, spelled = (
        [number for number in template.read(Prompt(text)).ids if number in marks]
        for text in ("Print x.", f"Print {EOS}{BOS}x.")
    )
    assert spelled == plain == [0] * (make is with_added_tokens)


def test_a_cut_statement_ends_in_the_response_mark_all_the_same() -> None:
    encoder = SampleEncoder(PromptSettings(), merging(), max_length=300, max_prompt_length=250)
    prompt = encoder.encode(Prompt(f"{EOS} " * 400), []).prompt
    assert prompt.is_truncated
    assert len(prompt.ids) == 250
    assert prompt.ids[-len(encoder.format.tail) :] == encoder.format.tail


def test_counts_are_those_of_the_tokens_that_are_computed(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Print.", "output": text, "problem_id": "p", "is_correct": True}
        for text in SPELLED
    ]
    index = DatasetIndex.build(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "index")
    tokenizer = with_added_tokens()
    counts = count_tokens(index, with_added_tokens())
    outputs = [sample.output for sample in index.read(np.arange(len(index)))]
    assert counts.outputs.tolist() == [len(ids) for ids in PlainText(tokenizer).encode(outputs)]


def adding(*marks: AddedToken, lowers: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with control tokens, which may lower all letters first."""
    tokenizer = make_tokenizer(adds_bos=True)
    if lowers:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens(list(marks))
    return tokenizer


def controls_of(tokenizer: PreTrainedTokenizerFast, text: str) -> set[str]:
    """The control tokens of a text, alone and within what a template rendered."""
    added = {str(token): n for n, token in tokenizer.added_tokens_decoder.items()}
    plain = PlainText(tokenizer)
    guarded = plain.guard(text)
    assert guarded.replace(GUARD, "") == text
    ids = {*plain.encode([text])[0], *plain.encode_rendered([guarded])[0]}
    return {name for name, number in added.items() if number in ids}


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("mark", ["<start_of_turn>", "<|eot_id|>", "<|im_end|>", "[/INST]"])
def test_marks_of_other_vocabularies_with_spaces_around_are_text(
    mark: str, is_special: bool
) -> None:
    token = AddedToken(mark, special=is_special, normalized=False, lstrip=True, rstrip=True)
    assert not controls_of(adding(token), f"x  {mark}{mark} \n {mark}")


@pytest.mark.parametrize(
    "mark",
    ["[gMASK]", "[UNUSED_TOKEN_1]", "<<SYS>>", ">>TITLE<<", "<|im start|>"],
)
def test_marks_that_a_vocabulary_does_not_call_special_are_text(mark: str) -> None:
    assert not controls_of(adding(AddedToken(mark, special=False)), f"print('{mark}')")


@pytest.mark.parametrize("text", ["<table><tr>", "</h1>", "[0]", "[self]"])
def test_added_tokens_of_text_keep_their_ids(text: str) -> None:
    names = ("<table>", "<tr>", "</h1>", "[0]", "[self]")
    tokenizer = adding(*(AddedToken(name, special=False, normalized=False) for name in names))
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert PlainText(tokenizer).encode([text]) == [expected]


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("text", ["<|end|>", "<|END|>", "x <|eNd|> <|END|><|end|>", "<|END" * 3000])
def test_what_a_normaliser_turns_into_a_control_token_is_text(text: str, is_special: bool) -> None:
    token = AddedToken("<|end|>", special=is_special, normalized=True)
    assert not controls_of(adding(token, lowers=True), text)


@pytest.mark.parametrize("text", ["<|x|>", "x|>", "<|x|><|y|>", "|x|>|y|>", "<|x<|x|>|>"])
def test_marks_within_or_across_other_marks_are_text(text: str) -> None:
    marks = [AddedToken(name, special=True) for name in ("<|x|>", "|x|>", "x|>", "|><|", "<|y|>")]
    assert not controls_of(adding(*marks), text)
