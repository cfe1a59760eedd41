"""Tokenizes data as plain text: no program or statement can spell a control token."""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from featurize.errors import CriticError

GUARD = "\ufdd0"
"""Splits the spelling of a control token in a text that a template is about to frame."""

_BRACKETS = re.compile(
    r"\s*(<[^\s<>]+>|<\|[^<>|]+\|>|<<[A-Z_/]+>>|>>[A-Z_]+<<|\[[A-Z_/]+\]"
    r"|\[\w*[A-Z]{2}\w*\])\s*"
)
"""Added tokens that vocabularies do not call special, but that mark a place in a conversation:
Qwen's `<tool_call>`, DeepSeek's marks of roles. Added runs of spaces or names are text."""
_HTML = re.compile(
    r"</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|code|sub|sup|[biu])>"
)
"""Added tokens of Gemma that are text: the model has learnt them from web pages."""


class PlainText:
    """A tokenizer whose special tokens come from its own template alone, never from a text.

    Texts that spell no special token have the ids they always had.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        marks = {
            text: number
            for text, number in _control_tokens(tokenizer).items()
            if text != tokenizer.unk_token
        }
        self._ids = frozenset(marks.values())
        longest_first = sorted((re.escape(text) for text in marks if len(text) > 1), key=len)[::-1]
        self._marks = re.compile("|".join(longest_first)) if longest_first else None
        self._marks_anywhere = re.compile(f"(?=({'|'.join(longest_first)}))")  # also within others
        self._are_normalised = _are_normalised(tokenizer)
        self._num_of_template = 0
        self._num_of_template = self._count(self._encode([""], with_template=True)[0])

    def largest_id(self) -> int:
        """The largest id that a text can have: no text has that of a control token."""
        template = self._encode([""], with_template=True)[0]
        return max({*self._tokenizer.get_vocab().values()} - self._ids | {*template}, default=0)

    def encode(self, texts: Sequence[str], *, with_template: bool = False) -> list[list[int]]:
        """Tokenize texts; with the special tokens that the tokenizer itself puts around a text.

        NOTE: verbose warns of texts that are too long for the model; they are cut later.
        """
        found = self._encode(texts, with_template=with_template)
        if self._marks is None:
            return found
        usual = self._num_of_template if with_template else 0
        return [
            self._encode_cut(text, with_template=with_template)
            if self._count(ids) > usual and self._marks.search(text)
            else ids
            for text, ids in zip(texts, found, strict=True)
        ]

    def guard(self, text: str, *, but: Collection[str] = ()) -> str:
        """Split every control token that a text spells, except `but`, for `encode_rendered`.

        Raises:
            CriticError: the text has the character that splits.
        """
        if GUARD in text:
            raise CriticError(
                f"{text[:40]!r} has the character U+FDD0, which no text may have in a chat"
                " template; remove it"
            )
        guarded = GUARD.join(_cut_at(text, self._cuts(text, but)))
        if not self._are_normalised:
            return guarded
        pieces = guarded.split(GUARD)
        return GUARD.join(part for piece in pieces for part in self._cut_controls(piece, but))

    def _cuts(self, text: str, but: Collection[str] = ()) -> list[int]:
        """Places after the first character of every control token that a text spells."""
        if self._marks is None or not self._marks.search(text):
            return []
        found = self._marks_anywhere.finditer(text)
        return [one.start() + 1 for one in found if one[1] not in but]

    def _cut_controls(self, text: str, but: Collection[str]) -> list[str]:
        """Cut a text within all that the normaliser turns into a control token, such as `<|END|>`.

        Each cut is after the first character; the pieces are looked through again.
        """
        found = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        cuts = [
            start + 1
            for number, (start, stop) in zip(
                found["input_ids"], found["offset_mapping"], strict=True
            )
            if number in self._ids and stop - start > 1 and text[start:stop].strip() not in but
        ]
        if not cuts:
            return [text]
        return [part for piece in _cut_at(text, cuts) for part in self._cut_controls(piece, but)]

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize what a template rendered: it spells control tokens, its guarded texts do not."""
        pieces = [text.split(GUARD) for text in texts]
        found = iter(self._encode([one for parts in pieces for one in parts], splits=False))
        return [[number for _ in parts for number in next(found)] for parts in pieces]

    def is_control(self, number: int) -> bool:
        """Whether an id is that of a control token."""
        return number in self._ids

    def last_mark(self, text: str) -> int:
        """Where the last control token that a rendered text spells begins; 0 without any."""
        places = [found.start() for found in self._marks.finditer(text)] if self._marks else []
        return places[-1] if places else 0

    def _encode_cut(self, text: str, *, with_template: bool) -> list[int]:
        """Tokenize a text in pieces that each end within the spelling of a control token.

        Vocabularies that merge its characters to the token itself leave no other way.
        """
        first, *rest = _cut_at(text, self._cuts(text))
        ids = self._encode([first], with_template=with_template)[0]
        if with_template and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        return [*ids, *(number for piece in self._encode(rest) for number in piece)]

    def _encode(
        self, texts: Sequence[str], *, with_template: bool = False, splits: bool = True
    ) -> list[list[int]]:
        if not texts:
            return []
        # Those without a backend split nothing at all (PythonBackend) or have no such option.
        can_split = getattr(self._tokenizer, "backend_tokenizer", None) is not None
        options: dict[str, Any] = {"split_special_tokens": splits} if can_split else {}
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=with_template, verbose=False, **options
        )["input_ids"]
        return ids

    def _count(self, ids: Sequence[int]) -> int:
        return sum(number in self._ids for number in ids)


def _cut_at(text: str, cuts: Sequence[int]) -> list[str]:
    """The pieces of a text between cuts."""
    return [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]


def _are_normalised(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts are normalised before some control tokens are looked for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return False
    tokens = backend.get_added_tokens_decoder().values()
    return any(token.normalized and (token.special or _is_mark(token.content)) for token in tokens)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The control tokens of a tokenizer with their ids; those it calls text become special."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder: dict[int, AddedToken] = (
        backend.get_added_tokens_decoder() if backend else tokenizer.added_tokens_decoder
    )
    found = {
        number: token
        for number, token in decoder.items()
        if token.special or _is_mark(token.content)
    }
    if backend and (hidden := [token for token in found.values() if not token.special]):
        for token in hidden:  # a copy of the tokenizer's
            token.special = True
        backend.add_special_tokens(hidden)
    return {token.content: number for number, token in found.items()}


def _is_mark(text: str) -> bool:
    return bool(_BRACKETS.fullmatch(text)) and not _HTML.fullmatch(text)
