"""Formats of prompts: how a statement and its outputs become token ids."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from featurize.data.messages import Message
from featurize.data.plain_text import PlainText
from featurize.data.prompt import RESPONSE_MARK, render_prompt
from featurize.data.records import Sample

Turn = dict[str, str]
"""A message as templates read it: `role` and `content`."""

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
    def turn(self) -> tuple[int, ...]:
        """Ids that end the turn of an output; only a chat template has them."""
        return ()

    @property
    @abstractmethod
    def tail(self) -> tuple[int, ...]:
        """Ids at the end of a usual prompt, which truncation keeps."""

    def read(self, prompt: Prompt) -> PromptTokens:
        """Tokenize a prompt."""
        return self.read_all([prompt])[0]

    @abstractmethod
    def read_all(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Tokenize prompts, in as few calls as possible."""

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

    def read_all(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Tokenize the rendered template."""
        texts = [render_prompt(prompt.instruction, prompt.input) for prompt in prompts]
        return [PromptTokens(ids=tuple(ids), tail=self.tail) for ids in self._start(texts)]

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

    def read_all(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Tokenize the statement, and its input after an empty line."""
        texts = [
            "\n\n".join(part for part in (prompt.instruction, prompt.input) if part)
            for prompt in prompts
        ]
        found = zip(texts, self._start(texts), strict=True)
        return [PromptTokens(ids=tuple(ids), text=text) for text, ids in found]

    def tokenize(self, groups: Sequence[Group]) -> list[OutputTokens]:
        """Tokenize outputs together with the prompt where its ids stay the same, else alone."""
        joint = self._start([prompt.text + output for prompt, output in pairs_of(groups)])
        alone = self.plain.encode(_outputs(groups))
        frames = [(prompt.ids, ()) for prompt, _ in pairs_of(groups)]
        return take_out(joint, frames, alone)

    def ask(self, question: str, end: Sequence[int]) -> list[int]:
        """Ask after an empty line."""
        return self.plain.encode(["\n\n" + question])[0]


def pairs_of(groups: Sequence[Group]) -> list[tuple[PromptTokens, str]]:
    """Every output with its prompt, in order."""
    return [(prompt, output) for prompt, outputs in groups for output in outputs]


def _outputs(groups: Sequence[Group]) -> list[str]:
    return [output for _, outputs in groups for output in outputs]


def take_out(
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
