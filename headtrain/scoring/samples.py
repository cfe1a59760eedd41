"""From what callers have, texts, chat messages or token ids, to the ids that a critic scores."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

from featurize.data.encoder import SampleEncoder
from featurize.data.fields import to_answer, to_text
from featurize.data.formats import Prompt as Statement
from featurize.data.formats import prompt_of
from featurize.data.messages import join_prompt, keep_turns, to_messages
from featurize.data.prompt import TokenIds
from featurize.data.records import Sample as Row
from featurize.errors import CriticError, shorten
from headtrain.scoring.texts import Messages, Output, Prompt
from headtrain.scoring.verdict import By, check_prefixes, prefix_lengths, prefix_texts, to_by

Ids: TypeAlias = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids of a prompt and of one of its outputs."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    is_truncated: bool
    """Whether prompt or output was longer than the head's limits and was cut."""
    prefixes: tuple[int, ...] = ()
    """Lengths of the prefixes of the output whose values are wanted; the last is all of it."""

    @classmethod
    def of(cls, prompt: TokenIds, output: TokenIds) -> "Sample":
        """Join a prompt and an output."""
        is_truncated = prompt.is_truncated or output.is_truncated
        return cls(prompt=prompt.ids, output=output.ids, is_truncated=is_truncated)


@dataclass(frozen=True, kw_only=True)
class CriticEncoder:
    """Encodes prompts and outputs; threads take turns, as tokenizers are not thread-safe."""

    encoder: SampleEncoder
    vocabulary: int
    """Number of token ids that the backbone knows."""
    tensors: Sequence[str]
    """What the head reads, `<pooling>.<layer>`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self, prompt: Prompt, outputs: Sequence[Output], input: str = "") -> list[Sample]:
        """Return one sample per output.

        Raises:
            ValueError: an output or the prompt is empty, a text cannot be encoded as UTF-8, an id
                is not in the vocabulary, or the messages are not a single-turn prompt.
        """
        if isinstance(outputs, str):
            raise ValueError(f"outputs is one string ({outputs[:40]!r}); give a list of strings")
        named = {f"outputs[{place}]": output for place, output in enumerate(outputs)}
        return self._encode(prompt, named, input)

    def encode_one(self, prompt: Prompt, output: Output, input: str = "") -> Sample:
        """Return the sample of one output.

        Raises:
            ValueError: as `encode`.
        """
        return self._encode(prompt, {"output": output}, input)[0]

    def encode_row(self, row: Row) -> Sample:
        """Return the sample of a row of a dataset, with the ids of `critic featurize`.

        Raises:
            CriticError: the output has no tokens, or the chat template refuses a text.
        """
        with self._lock:
            found = self.encoder.encode(prompt_of(row), [row.output])
        return Sample.of(found.prompt, found.outputs[0])

    def with_prefixes(self, sample: Sample, by: By) -> Sample:
        """Ask for the values along a sample.

        Raises:
            CriticError: the head reads what only a whole output has, or `by` is something else.
        """
        by = to_by(by)
        check_prefixes(self.tensors, has_end=bool(self.encoder.suffix.end))
        return replace(sample, prefixes=prefix_lengths(sample.output, by, self._decode))

    def prefix_texts(self, sample: Sample) -> tuple[str, ...]:
        """Return the text that each prefix of a sample adds to the one before it."""
        return prefix_texts(sample.output, sample.prefixes, self._decode)

    def _decode(self, ids: Ids) -> str:
        """Return the text of token ids, control tokens included."""
        with self._lock:
            text = self.encoder.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return cast(str, text)

    def _encode(self, prompt: Prompt, outputs: Mapping[str, Output], input: str) -> list[Sample]:
        """Encode outputs by the names that errors call them."""
        texts = {
            name: to_answer(output, name) for name, output in outputs.items() if not is_ids(output)
        }
        found: Sequence[TokenIds] = ()
        if is_ids(prompt):
            whole = self._take_prompt(cast(Ids, prompt), list(texts), input)
        else:
            statement = to_statement(
                cast("str | Messages", prompt), to_text(input, "input"), self.encoder.has_turns
            )
            with self._lock:
                encoded = self.encoder.encode(statement, list(texts.values()))
            whole, found = encoded.prompt, encoded.outputs
        ids = dict(zip(texts, found, strict=True))
        return [
            Sample.of(
                whole,
                ids[name]
                if name in ids
                else self._take_output(cast(Ids, output), name, len(whole.ids)),
            )
            for name, output in outputs.items()
        ]

    def _take_prompt(self, prompt: Ids, names: Sequence[str], input_text: str) -> TokenIds:
        """Cut ids as the text of a prompt is cut; `names` are those of outputs that are texts."""
        if names or input_text:
            what = repr(names[0]) if names else "'input'"
            raise ValueError(
                f"{what} is a text and the prompt token ids; give both as texts or both as ids"
            )
        ids = self._check_ids(prompt, "prompt")
        limit, tail = self.encoder.max_prompt_length, self.encoder.format.tail
        if len(ids) <= limit:
            return TokenIds(ids=ids, is_truncated=False)
        return TokenIds(ids=ids[: limit - len(tail)] + tail, is_truncated=True)

    def _take_output(self, output: Ids, name: str, num_prompt_tokens: int) -> TokenIds:
        """Cut ids as the text of an output is cut."""
        ids = self._check_ids(output, name)
        limit = self.encoder.max_length - num_prompt_tokens
        return TokenIds(ids=ids[:limit], is_truncated=len(ids) > limit)

    def _check_ids(self, ids: Ids, name: str) -> tuple[int, ...]:
        wrong = [i for i in ids if type(i) is not int or not 0 <= i < self.vocabulary]
        if wrong:
            raise ValueError(
                f"{name!r} holds the token id {shorten(wrong[0])}; ids are whole numbers from 0 to"
                f" {self.vocabulary - 1}, those of the backbone's tokenizer"
            )
        return tuple(ids)


def is_ids(value: object) -> bool:
    """Whether a prompt or an output is a list of token ids."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], int)


def to_statement(prompt: str | Messages, input_text: str, has_turns: bool) -> Statement:
    """Return what a text or messages before an answer ask; a format without turns joins messages.

    Raises:
        CriticError: the prompt is neither, or it has several turns and the format has none.
    """
    if isinstance(prompt, str):
        return Statement(to_text(prompt, "prompt"), input_text)
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise CriticError(
            f"'prompt' is {shorten(prompt)}; it must be a text, a list of messages with 'role' and"
            " 'content', or a list of token ids"
        )
    messages = to_messages(list(prompt), "prompt")
    if not has_turns:
        return Statement(join_prompt(messages, "prompt"), input_text)
    kept = keep_turns(messages, "prompt")
    if isinstance(kept, str):
        return Statement(kept, input_text)
    return Statement("", input_text, tuple((one["role"], one["content"]) for one in kept))
