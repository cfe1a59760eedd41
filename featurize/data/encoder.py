"""Token ids of samples as the prompt settings ask: prompts, outputs, and what follows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from featurize.data.chat import THINK_MARKS, Chat
from featurize.data.formats import (
    Alpaca,
    Group,
    OutputTokens,
    Prompt,
    PromptFormat,
    PromptTokens,
    Raw,
)
from featurize.data.prompt import TokenIds
from featurize.errors import CriticError
from featurize.settings import PromptSettings


@dataclass(frozen=True, kw_only=True)
class Suffix:
    """What follows every output, beyond dataset.max_length."""

    end: tuple[int, ...] = ()
    """Ids of the end of the output, which the pooling `last` reads."""
    question: tuple[int, ...] = ()
    """Ids of the question; empty without one."""
    answers: tuple[int, int] | None = None
    """Ids of the answers to the question."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids after an output."""
        return self.end + self.question


@dataclass(frozen=True, kw_only=True)
class OutputIds(TokenIds):
    """The token ids of an output, without what follows it."""

    is_apart: bool = False
    """Tokenized together, prompt and output would have other ids."""
    is_stripped: bool = False
    """Its thinking was removed."""


@dataclass(frozen=True, kw_only=True)
class EncodedSamples:
    """A prompt and its outputs."""

    prompt: TokenIds
    outputs: tuple[OutputIds, ...]


class SampleEncoder:
    """Tokenizes a prompt and its outputs.

    The ids of a prompt do not depend on its outputs, and those of an output do not depend on the
    other outputs.
    """

    def __init__(
        self,
        settings: PromptSettings,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        max_prompt_length: int,
    ) -> None:
        """Check the settings and limits against the tokenizer.

        Args:
            settings: the format of prompts.
            tokenizer: that of the backbone.
            max_length: tokens of prompt and output; what follows the output is not counted.
            max_prompt_length: tokens of the prompt.

        Raises:
            CriticError: no token would be left for an output or for a statement, the tokenizer has
                no chat template or no token for an answer, or the template cannot be used.
        """
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_prompt_length = max_prompt_length
        self.has_turns = settings.has_turns
        self._strips = settings.think == "strip"
        self.format = _make_format(settings, tokenizer)
        num_kept = len(self.format.tail)
        if not num_kept < max_prompt_length < max_length:
            raise CriticError(
                f"dataset.max_prompt_length is {max_prompt_length} with dataset.max_length"
                f" {max_length}; it must be below max_length and above the {num_kept} tokens"
                " of the end of the template"
            )
        self.suffix = _make_suffix(settings, self.format)

    def encode(self, prompt: Prompt, outputs: Sequence[str]) -> EncodedSamples:
        """Tokenize and truncate: of a prompt the end of the statement, of an output the end.

        Raises:
            CriticError: the prompt or an output has no tokens, or the chat template refuses or
                changes a text.
        """
        return self.encode_all([(prompt, outputs)])[0]

    def encode_all(self, groups: Sequence[tuple[Prompt, Sequence[str]]]) -> list[EncodedSamples]:
        """Encode several prompts as `encode` does, in as few calls of the tokenizer as possible."""
        read = self._read(groups)
        tokens = iter(self.format.tokenize(read))
        return [
            self._truncate(prompt, list(zip(outputs, kept, islice(tokens, len(kept)), strict=True)))
            for (_, outputs), (prompt, kept) in zip(groups, read, strict=True)
        ]

    def _truncate(
        self, prompt: PromptTokens, outputs: Sequence[tuple[str, str, OutputTokens]]
    ) -> EncodedSamples:
        """Truncate a prompt and its outputs: each as a row has it, as it is kept, and its ids."""
        if not prompt.ids:  # then nothing would predict the first token of an output
            raise CriticError(
                f"the prompt {prompt.text!r} has no tokens; remove the row, or set prompt.format to"
                " alpaca"
            )
        ids = _cut_prompt(prompt.ids, prompt.tail, self.max_prompt_length)
        room = self.max_length - len(ids.ids)
        return EncodedSamples(prompt=ids, outputs=tuple(_cut(*one, room) for one in outputs))

    def count(self, groups: Sequence[tuple[Prompt, Sequence[str]]]) -> tuple[list[int], list[int]]:
        """Count the tokens of every output's prompt, and of every output, before truncation."""
        read = self._read(groups)
        prompts = [len(prompt.ids) for prompt, outputs in read for _ in outputs]
        return prompts, self.format.count(read)

    def _read(self, groups: Sequence[tuple[Prompt, Sequence[str]]]) -> list[Group]:
        prompts = self.format.read_all([prompt for prompt, _ in groups])
        outputs = [self._strip(outputs) for _, outputs in groups]
        return list(zip(prompts, outputs, strict=True))

    def _strip(self, outputs: Sequence[str]) -> list[str]:
        return [strip_thinking(text) for text in outputs] if self._strips else list(outputs)


def strip_thinking(text: str) -> str:
    """Remove the thinking before an answer: all up to the first </think>.

    A text whose thinking does not end, or in which <think> comes after other text, is unchanged.

    Raises:
        CriticError: nothing follows the thinking.
    """
    start, stop = THINK_MARKS
    thinking, mark, answer = text.partition(stop)
    before = thinking.partition(start)[0] if start in thinking else ""
    if not mark or before.strip():
        return text
    if not answer.strip():
        raise CriticError(
            f"output {text[:40]!r} has nothing after its thinking; remove the row, or set"
            " prompt.think=keep"
        )
    return answer.lstrip("\n")


def _cut(output: str, kept: str, tokens: OutputTokens, room: int) -> OutputIds:
    if not tokens.ids:
        raise CriticError(f"output {output[:40]!r} has no tokens; remove the row")
    return OutputIds(
        ids=tuple(tokens.ids[:room]),
        is_truncated=len(tokens.ids) > room,
        is_apart=tokens.is_apart,
        is_stripped=kept != output,
    )


def _cut_prompt(ids: tuple[int, ...], tail: tuple[int, ...], limit: int) -> TokenIds:
    if len(ids) <= limit:
        return TokenIds(ids=ids, is_truncated=False)
    return TokenIds(ids=ids[: max(0, limit - len(tail))] + tail, is_truncated=True)


def _make_format(settings: PromptSettings, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    if settings.format == "alpaca":
        return Alpaca(tokenizer)
    return Raw(tokenizer) if settings.format == "raw" else Chat(tokenizer, settings)


def _make_suffix(settings: PromptSettings, form: PromptFormat) -> Suffix:
    end = {"none": (), "eos": _eos(form), "turn": form.turn}[settings.end]
    if settings.end != "none" and not end:
        raise CriticError(
            f"prompt.end is {settings.end}, but the tokenizer or its template has none; set it to"
            " none"
        )
    if settings.question is None:
        return Suffix(end=end)
    first, second = (_answer(text, form) for text in settings.answers)
    return Suffix(
        end=end, question=tuple(form.ask(settings.question, end)), answers=(first, second)
    )


def _eos(form: PromptFormat) -> tuple[int, ...]:
    number = form.tokenizer.eos_token_id
    return () if number is None else (number,)


def _answer(text: str, form: PromptFormat) -> int:
    """The token of an answer."""
    ids = form.plain.encode([text])[0]
    if len(ids) != 1:
        raise CriticError(
            f"prompt.answers has {text!r}, which is {len(ids)} tokens of the backbone's tokenizer;"
            " give answers of one token each (with or without a space before them)"
        )
    return ids[0]
