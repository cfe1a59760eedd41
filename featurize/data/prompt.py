"""The prompt built from a row, and the token ids of prompts and outputs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from featurize.data.plain_text import PlainText
from featurize.errors import CriticError

TEMPLATE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
TEMPLATE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
"""The templates of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py)."""

RESPONSE_MARK = "\n\n### Response:\n"


def render_prompt(instruction: str, input_text: str = "") -> str:
    """Render the text before the output."""
    # NOTE: replace, not str.format: statements are full of braces.
    if not input_text:
        return TEMPLATE.replace("{instruction}", instruction)
    before, after = TEMPLATE_WITH_INPUT.split("{instruction}")
    return before + instruction + after.replace("{input}", input_text)


def template_digest() -> str:
    """Hash both templates."""
    return hashlib.blake2b((TEMPLATE + TEMPLATE_WITH_INPUT).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The token ids of one text, truncated if necessary."""

    ids: tuple[int, ...]
    is_truncated: bool


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Tokenizes prompts and outputs separately.

    The ids of a prompt do not depend on its outputs, and those of an output do not depend on the
    other outputs.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int  # tokens of prompt + output
    max_prompt_length: int  # tokens of the prompt
    plain: PlainText = field(init=False, repr=False)
    tail: tuple[int, ...] = field(init=False)  # ids of the response mark, kept when truncating

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            CriticError: no token would be left for an output or for a statement.
        """
        object.__setattr__(self, "plain", PlainText(self.tokenizer))
        tail = self.tokenizer(RESPONSE_MARK, add_special_tokens=False)["input_ids"]
        object.__setattr__(self, "tail", tuple(tail))
        if not len(tail) < self.max_prompt_length < self.max_length:
            raise CriticError(
                f"dataset.max_prompt_length is {self.max_prompt_length} with dataset.max_length"
                f" {self.max_length}; it must be below max_length and above the {len(tail)} tokens"
                " of the response mark"
            )

    def encode_prompt(self, instruction: str, input_text: str = "") -> TokenIds:
        """Tokenize a prompt; truncation drops the end of the statement, not the response mark."""
        text = render_prompt(instruction, input_text)
        ids = tuple(self.plain.encode([text], with_template=True)[0])
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text, but here the output follows
        if len(ids) <= self.max_prompt_length:
            return TokenIds(ids=ids, is_truncated=False)
        head = ids[: self.max_prompt_length - len(self.tail)]
        return TokenIds(ids=head + self.tail, is_truncated=True)

    def tokenize(self, outputs: Sequence[str]) -> list[list[int]]:
        """Tokenize outputs whole: what spells a special token in a program is plain text."""
        return self.plain.encode(outputs)

    def encode_outputs(self, outputs: Sequence[str], num_prompt_tokens: int) -> list[TokenIds]:
        """Tokenize the outputs of one prompt; truncation drops the end.

        Raises:
            CriticError: an output has no tokens.
        """
        return [
            self.cut_output(text, ids, num_prompt_tokens)
            for text, ids in zip(outputs, self.tokenize(outputs), strict=True)
        ]

    def cut_output(self, text: str, ids: Sequence[int], num_prompt_tokens: int) -> TokenIds:
        """Cut the ids of an output to the room that its prompt leaves.

        Raises:
            CriticError: the output has no tokens.
        """
        if not ids:
            raise CriticError(f"output {text[:40]!r} has no tokens; remove the row")
        limit = self.max_length - num_prompt_tokens
        return TokenIds(ids=tuple(ids[:limit]), is_truncated=len(ids) > limit)
