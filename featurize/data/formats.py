"""Formats of prompts: how a statement and its outputs become token ids."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from featurize.data.chat_template import PLACE, ChatTemplate, Turn
from featurize.data.messages import Message
from featurize.data.plain_text import GUARD, PlainText
from featurize.data.prompt import RESPONSE_MARK, render_prompt
from featurize.data.records import Sample
from featurize.errors import CriticError

logger = logging.getLogger(__name__)

THINK_MARKS = ("<think>", "</think>")
"""Control tokens of some vocabularies that an answer may have: the model writes them itself."""

_QUESTION = "\n\n### Instruction:\n{}" + RESPONSE_MARK
_START_CHARS = 32
"""Characters of an output whose tokens can reach into the prompt; a token seldom has as many."""


class Prompt(NamedTuple):
    """A statement as a row has it."""

    instruction: str
    input: str = ""
    messages: tuple[Message, ...] = ()  # of a conversation; then `instruction` is not read


def prompt_of(sample: Sample) -> Prompt:
    """The prompt of a sample."""
    return Prompt(sample.instruction, sample.input, sample.messages)


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """The token ids of a prompt before truncation, and what its outputs need of it."""

    ids: tuple[int, ...]
    tail: tuple[int, ...] = ()  # the last ids, which truncation keeps
    text: str = ""  # rendered
    turns: tuple[Turn, ...] = ()


Group = tuple[PromptTokens, Sequence[str]]
"""A prompt and its outputs."""


class OutputTokens(NamedTuple):
    """The token ids of an output before truncation."""

    ids: list[int]
    is_apart: bool  # prompt and output have other ids when they are tokenized together


class PromptFormat(ABC):
    """A format of prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use the tokenizer for texts that spell no control token."""
        self.tokenizer = tokenizer
        self.plain = PlainText(tokenizer)

    @property
    def name(self) -> str:
        """What truncation keeps, for messages."""
        return "the end of the template"

    @property
    def turn(self) -> tuple[int, ...]:
        """Ids that end the turn of an output; only a chat template has them."""
        return ()

    @property
    @abstractmethod
    def tail(self) -> tuple[int, ...]:
        """Ids at the end of a usual prompt, which truncation keeps."""

    @abstractmethod
    def read(self, prompt: Prompt) -> PromptTokens:
        """Tokenize a prompt."""

    @abstractmethod
    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize all outputs of some prompts, in order, in as few calls as possible."""

    def count(self, groups: Sequence[Group]) -> list[int]:
        """Count the tokens of all outputs of some prompts, in order."""
        return [len(one.ids) for one in self.tokenize(groups)]

    @abstractmethod
    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Tokenize a question that follows an output and the ids of its end."""

    def _start(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize plain texts with the tokenizer's own special tokens before them."""
        eos = self.tokenizer.eos_token_id
        found = self.plain.encode(texts, with_template=True)
        # some tokenizers end every text, but here the output follows
        return [ids[:-1] if ids and ids[-1] == eos else ids for ids in found]


class Alpaca(PromptFormat):
    """The template of Stanford Alpaca; prompt and output are tokenized separately."""

    @cached_property
    def tail(self) -> tuple[int, ...]:
        """The response mark."""
        return tuple(self.tokenizer(RESPONSE_MARK, add_special_tokens=False)["input_ids"])

    def read(self, prompt: Prompt) -> PromptTokens:
        """Tokenize the rendered template."""
        text = render_prompt(prompt.instruction, prompt.input)
        return PromptTokens(ids=tuple(self._start([text])[0]), tail=self.tail)

    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize outputs by themselves."""
        outputs = _outputs(groups)
        starts = [output[:_START_CHARS] for output in outputs]
        alone = self.plain.encode(starts)
        joint = self.plain.encode([RESPONSE_MARK + start for start in starts])
        found = self.plain.encode(outputs)
        return [
            OutputTokens(ids, tuple(both[: len(self.tail) + 1]) != (*self.tail, *first[:1]))
            for ids, both, first in zip(found, joint, alone, strict=True)
        ]

    def count(self, groups: Sequence[Group]) -> list[int]:
        """Count without comparing with the tokens of a joint text."""
        return [len(ids) for ids in self.plain.encode(_outputs(groups))]

    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Ask in a second instruction."""
        return self.plain.encode([_QUESTION.format(question)])[0]


class Raw(PromptFormat):
    """The statement as it is, after the tokenizer's own special tokens."""

    @property
    def tail(self) -> tuple[int, ...]:
        """Nothing: truncation drops the end of the statement."""
        return ()

    def read(self, prompt: Prompt) -> PromptTokens:
        """Tokenize the statement, and its input after an empty line."""
        text = "\n\n".join(part for part in (prompt.instruction, prompt.input) if part)
        return PromptTokens(ids=tuple(self._start([text])[0]), text=text)

    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize outputs together with the prompt where its ids stay the same, else alone."""
        joint = self._start([prompt.text + output for prompt, output in _pairs(groups)])
        alone = self.plain.encode(_outputs(groups))
        frames = [(prompt.ids, ()) for prompt, _ in _pairs(groups)]
        return _take_out(joint, frames, alone)

    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Ask after an empty line."""
        return self.plain.encode(["\n\n" + question])[0]


class Chat(PromptFormat):
    """A chat template: the prompt is what it renders up to the answer, with a generation prompt.

    The template's own control tokens have their ids; what data spells is plain text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, system: str | None
    ) -> None:
        """Find what the template writes after a prompt and after an answer.

        Raises:
            CriticError: it refuses a question with an answer, or leaves the answer out.
        """
        super().__init__(tokenizer)
        self._template = template
        self._system = system
        self._end_text = self._find_end()
        self._check_start()

    @cached_property
    def turn(self) -> tuple[int, ...]:
        """Ids that end the turn of an output."""
        return tuple(self.plain.encode_rendered([self._end_text])[0])

    @cached_property
    def tail(self) -> tuple[int, ...]:
        """Ids at the end of a usual prompt: the end of a turn, and the generation prompt."""
        return self.read(Prompt("x")).tail

    def read(self, prompt: Prompt) -> PromptTokens:
        """Render and tokenize a conversation."""
        turns = self._turns(prompt)
        text = self._template.render_prompt(turns)
        filled = [place for place, turn in enumerate(turns) if turn["content"].strip()]
        last = filled[-1] if filled else len(turns) - 1
        marked = [*turns[:last], replace_text(turns[last], PLACE), *turns[last + 1 :]]
        tail = self._template.render_prompt(marked).rpartition(PLACE)[2]
        ids, tail_ids = self.plain.encode_rendered([text, tail if text.endswith(tail) else ""])
        return PromptTokens(ids=tuple(ids), tail=tuple(tail_ids), text=text, turns=tuple(turns))

    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize outputs between the generation prompt and the end of the turn.

        Raises:
            CriticError: the template rewrites the prompt or an output.
        """
        middles = [self._render_output(*pair) for pair in _pairs(groups)]
        anchors = [
            anchor for prompt, outputs in groups for anchor in [self._anchor(prompt)] * len(outputs)
        ]
        wholes = [
            anchor + middle + self._end_text
            for (anchor, _), middle in zip(anchors, middles, strict=True)
        ]
        joint, alone = (self.plain.encode_rendered(texts) for texts in (wholes, middles))
        return _take_out(joint, [(ids, self.turn) for _, ids in anchors], alone)

    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Ask in a turn of the user; the turn of the output is ended first."""
        turns = self._turns(Prompt("x"))
        asked = [
            *turns,
            {"role": "assistant", "content": PLACE},
            {"role": "user", "content": self.plain.guard(question)},
        ]
        text = self._template.render_prompt(asked).rpartition(PLACE)[2]
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
        before, place, end = self._template.render_whole(
            self._turns(Prompt("x")), PLACE
        ).rpartition(PLACE)
        if not place or PLACE in before:
            raise CriticError(
                "the chat template does not write an answer once, as it is; give another one with"
                " prompt.format=jinja and prompt.template=FILE"
            )
        return end

    def _render_output(self, prompt: PromptTokens, output: str) -> str:
        """What the template writes for an output after the prompt, up to the end of its turn."""
        answer = self._guard("assistant", output)
        whole = self._template.render_whole(prompt.turns, answer)
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


def _pairs(groups: Sequence[Group]) -> list[tuple[PromptTokens, str]]:
    return [(prompt, output) for prompt, outputs in groups for output in outputs]


def _outputs(groups: Sequence[Group]) -> list[str]:
    return [output for _, outputs in groups for output in outputs]


def _take_out(
    joint: Sequence[list[int]],
    frames: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    alone: Sequence[list[int]],
) -> list[OutputTokens]:
    """Take each output out of the ids of a joint text, where those around it stay the same.

    Args:
        joint: ids of what comes before an output, the output, and what comes after it.
        frames: ids of what comes before and after, tokenized by themselves.
        alone: ids of the outputs by themselves, which are taken elsewhere.
    """
    found = []
    for ids, (before, after), own in zip(joint, frames, alone, strict=True):
        start, stop = len(before), len(ids) - len(after)
        is_whole = tuple(ids[:start]) == before and tuple(ids[stop:]) == after and start <= stop
        found.append(OutputTokens(ids[start:stop] if is_whole else own, not is_whole))
    return found


def replace_text(turn: Turn, text: str) -> Turn:
    """Return a message with another text."""
    return {**turn, "content": text}


def _squeeze(text: str) -> str:
    """Remove white space, which templates strip, and guards."""
    return "".join(text.replace(GUARD, "").split())
