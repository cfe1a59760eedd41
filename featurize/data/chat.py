"""The chat format: conversations in a chat template, with the output as the last answer."""

import logging
from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from featurize.data.formats import (
    Group,
    OutputTokens,
    Prompt,
    PromptFormat,
    PromptTokens,
    Turn,
    pairs_of,
    take_out,
)
from featurize.data.plain_text import GUARD
from featurize.errors import CriticError
from featurize.settings import PromptSettings

PLACE = "\ufdd1"
"""Placeholder text of a message, to find what a template writes around it."""

_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""NOTE: templates may write today's date, and features must not depend on the day. This is the date
that Llama 3's template writes if it does not know the day."""


def template_text(settings: PromptSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of the chat template that the settings ask for.

    Raises:
        CriticError: the tokenizer has none.
    """
    if settings.template is not None:
        return settings.template
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise CriticError(
            "prompt.format is chat, but the backbone's tokenizer has no chat template; give one in"
            " a file with prompt.format=jinja and prompt.template=FILE, or use alpaca or raw"
        ) from error


logger = logging.getLogger(__name__)

THINK_MARKS = ("<think>", "</think>")
"""Control tokens of some vocabularies that an answer may have: the model writes them itself."""


class Chat(PromptFormat):
    """A chat template: the prompt is the rendered conversation with its generation prompt.

    Control tokens that the template writes get their ids; those spelled in data are plain text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> None:
        """Find what the template writes after a prompt and after an answer.

        Raises:
            CriticError: the tokenizer has no template, or it refuses a question with an answer or
                leaves the answer out.
        """
        super().__init__(tokenizer)
        text = template_text(settings, tokenizer)
        self._template = _FIXED_DATE + text if "strftime_now" in text else text
        self._variables = settings.chat_template_kwargs or {}
        self._system = settings.system
        self._end_text = self._find_end()
        self._check_statement()
        self._check_start()

    @cached_property
    def turn(self) -> tuple[int, ...]:
        """Ids that end the turn of an output."""
        return tuple(self.plain.encode_rendered([self._end_text])[0])

    @cached_property
    def tail(self) -> tuple[int, ...]:
        """Ids at the end of a usual prompt: the end of a turn, and the generation prompt."""
        return self.read(Prompt("x")).tail

    def read_all(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Render and tokenize conversations."""
        rendered = [self._render_prompt(prompt) for prompt in prompts]
        wholes = self.plain.encode_rendered([text for _, text, _ in rendered])
        tails = self.plain.encode_rendered([tail for *_, tail in rendered])
        return [
            PromptTokens(ids=tuple(whole), tail=tuple(tail), text=text, turns=turns)
            for (turns, text, _), whole, tail in zip(rendered, wholes, tails, strict=True)
        ]

    def _render(self, turns: Sequence[Turn], answer: str | None = None) -> str:
        """Render the text before an answer, or a conversation with it, in transformers' sandbox.

        Raises:
            CriticError: the template refuses the conversation, or is wrong.
        """
        last = [] if answer is None else [{"role": "assistant", "content": answer}]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [*turns, *last],
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=answer is None,
                    **self._variables,
                )
            )
        except Exception as error:  # a template is a program: any error of Python's is its own
            roles = ", ".join(turn["role"] for turn in [*turns, *last])
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CriticError(
                f"the chat template refuses a conversation of {roles} ({reason}); change the rows,"
                " prompt.system or prompt.chat_template_kwargs, or set prompt.format"
            ) from error

    def _render_prompt(self, prompt: Prompt) -> tuple[tuple[Turn, ...], str, str]:
        """The turns of a conversation, its text, and the end of it that truncation keeps."""
        turns = self._turns(prompt)
        text = self._render(turns)
        filled = [place for place, turn in enumerate(turns) if turn["content"].strip()]
        last = filled[-1] if filled else len(turns) - 1
        marked = [*turns[:last], {**turns[last], "content": PLACE}, *turns[last + 1 :]]
        tail = self._render(marked).rpartition(PLACE)[2]
        return tuple(turns), text, tail if text.endswith(tail) else ""

    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize outputs between the generation prompt and the end of the turn.

        Raises:
            CriticError: the template rewrites the prompt or an output.
        """
        middles = [self._render_output(*pair) for pair in pairs_of(groups)]
        anchors = [
            anchor for prompt, outputs in groups for anchor in [self._anchor(prompt)] * len(outputs)
        ]
        wholes = [
            anchor + middle + self._end_text
            for (anchor, _), middle in zip(anchors, middles, strict=True)
        ]
        joint, alone = (self.plain.encode_rendered(texts) for texts in (wholes, middles))
        return take_out(joint, [(ids, self.turn) for _, ids in anchors], alone)

    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Ask in a turn of the user; the turn of the output is ended first."""
        turns = self._turns(Prompt("x"))
        asked = [
            *turns,
            {"role": "assistant", "content": PLACE},
            {"role": "user", "content": self.plain.guard(question)},
        ]
        text = self._render(asked).rpartition(PLACE)[2]
        ids = self.plain.encode_rendered([text])[0]
        return ids[len(end) :] if tuple(ids[: len(end)]) == tuple(end) else ids

    def _anchor(self, prompt: PromptTokens) -> tuple[str, tuple[int, ...]]:
        """The end of a prompt from its last control token on, which nothing before it changes."""
        anchor = prompt.text[self.plain.last_mark(prompt.text) :]
        ids = tuple(self.plain.encode_rendered([anchor])[0])
        if ids and prompt.ids[-len(ids) :] == ids:
            return anchor, ids
        return prompt.text, prompt.ids

    def _turns(self, prompt: Prompt) -> list[Turn]:
        messages = list(prompt.messages) or [("user", prompt.instruction)]
        if prompt.input:
            role, text = messages[-1]
            messages[-1] = (role, f"{text}\n\n{prompt.input}" if text else prompt.input)
        if self._system is not None and all(role != "system" for role, _ in messages):
            messages.insert(0, ("system", self._system))
        return [{"role": role, "content": self._guard(role, text)} for role, text in messages]

    def _guard(self, role: str, text: str) -> str:
        return self.plain.guard(text, but=THINK_MARKS if role == "assistant" else ())

    def _check_statement(self) -> None:
        """Check that the prompt has the statement.

        Raises:
            CriticError: the template leaves it out, so that all prompts would be the same.
        """
        if PLACE not in self._render(self._turns(Prompt(PLACE))):
            raise CriticError(
                "the chat template does not write the message of the user, so every prompt would"
                " be the same; give another one with prompt.format=jinja and prompt.template=FILE"
            )

    def _check_start(self) -> None:
        """Warn of a template without the token that the tokenizer puts before every text."""
        own, rendered = self._start([""])[0][:1], self.read(Prompt("x")).ids[:1]
        if own and tuple(own) != rendered:
            logger.warning(
                "the chat template does not begin with %r, which the tokenizer puts before every"
                " text; if the backbone expects it, begin the template with {{ bos_token }}",
                self.tokenizer.decode(own),
            )

    def _find_end(self) -> str:
        """What the template writes after an answer."""
        before, place, end = self._render(self._turns(Prompt("x")), PLACE).rpartition(PLACE)
        if not place or PLACE in before:
            raise CriticError(
                "the chat template does not write an answer once, as it is; give another one with"
                " prompt.format=jinja and prompt.template=FILE"
            )
        return end

    def _render_output(self, prompt: PromptTokens, output: str) -> str:
        """What the template writes for an output after the prompt, up to the end of its turn."""
        answer = self._guard("assistant", output)
        whole = self._render(prompt.turns, answer)
        stop = len(whole) - len(self._end_text)
        if not whole.startswith(prompt.text):
            raise CriticError(
                "the chat template rewrites the prompt when an answer follows (it may remove"
                " thinking from it): the outputs of a prompt could not share it; set"
                " prompt.chat_template_kwargs (such as {enable_thinking: false}), or give another"
                " template with prompt.format=jinja"
            )
        if stop < len(prompt.text) or not whole.endswith(self._end_text):
            raise CriticError(
                f"the chat template ends the output {output[:40]!r} with"
                f" {whole[-20:]!r} and others with {self._end_text!r}; give another template with"
                " prompt.format=jinja"
            )
        if not _squeeze(whole[:stop]).endswith(_squeeze(answer)):
            raise CriticError(
                f"the chat template changes the output {output[:40]!r} (it may leave thinking out);"
                " set prompt.think=strip, or give another template with prompt.format=jinja"
            )
        return whole[len(prompt.text) : stop]


def _squeeze(text: str) -> str:
    """Remove white space, which templates strip, and guards."""
    return "".join(text.replace(GUARD, "").split())
