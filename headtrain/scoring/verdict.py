"""The verdict on an output and on its prefixes: values, and what they mean by the calibration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from featurize.errors import CriticError, shorten

Scale = Literal["logit", "probability", "value"]
"""The number that a reward is: calibrated log-odds, their probability, or the head's value."""

By: TypeAlias = Literal["lines", "tokens"] | int
"""Where the prefixes end: after each line, after each token, or after each of N equal parts."""

MAX_PARTS = 10_000

Decode: TypeAlias = Callable[[Sequence[int]], str]
"""The text of token ids."""

_INCOMPLETE = "\ufffd"
"""What the bytes of an unfinished character decode to."""


@dataclass(frozen=True, kw_only=True)
class Along:
    """The values of n prefixes of an output; the last prefix is the whole output."""

    positions: tuple[int, ...]
    """[n] tokens of each prefix, ascending."""
    texts: tuple[str, ...]
    """[n] what each prefix adds to the one before it: together the output."""
    values: tuple[float, ...]
    """[n] value of each prefix, on the head's own scale; the last is the output's score."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The scores of one output; every number is finite."""

    value: float
    """On the head's own scale: higher is more likely correct; compare within a problem."""
    logit: float | None
    """Calibrated log-odds of being correct; None if the head has no calibration."""
    probability: float | None
    """Probability of being correct, calibrated on the head's train samples; None as `logit`."""
    spread: float | None
    """Standard deviation of the values of an ensemble's members; None for a single head."""
    distance: float | None = None
    """Share of the head's train samples that are nearer to train; None if it was not saved."""
    num_tokens: int
    is_truncated: bool
    """Whether prompt or output was longer than the head's limits and was cut."""
    along: Along | None = None
    """Values of its prefixes, if they were wanted."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            CriticError: one is NaN or inf.
        """
        along = self.along.values if self.along else ()
        numbers = (self.value, self.logit, self.probability, self.spread, self.distance, *along)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise CriticError(f"the value of a sample is not finite: {numbers}")

    def on_scale(self, scale: Scale) -> float:
        """Return the reward.

        Raises:
            CriticError: the head has no calibration, and the scale needs one.
        """
        number = {"value": self.value, "logit": self.logit, "probability": self.probability}[scale]
        if number is None:
            raise CriticError(
                f"the head has no calibration, so there is no {scale}; use the scale 'value', or"
                " take best or final of a finished run"
            )
        return number


def to_by(value: str | int) -> By:
    """Check where prefixes should end.

    Raises:
        CriticError: it is neither lines, tokens nor a number from 1.
    """
    if value == "lines":
        return "lines"
    if value == "tokens":
        return "tokens"
    number = value if isinstance(value, int) else _to_number(value)
    if isinstance(value, bool) or number is None or not 1 <= number <= MAX_PARTS:
        raise CriticError(
            f"'along' is {shorten(value)}; it must be lines, tokens, or a number of equal parts"
            f" from 1 to {MAX_PARTS:,}"
        )
    return number


def _to_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def check_prefixes(tensors: Sequence[str], *, has_end: bool) -> None:
    """Check that a head reads nothing that comes after a whole output only, such as prompt.end.

    Raises:
        CriticError: it does; names the tensor, `<pooling>.<layer>`.
    """
    for name in tensors:
        pooling = name.partition(".")[0]
        if pooling == "question":
            raise CriticError(
                f"the head reads {name}, the state of a question after the whole output, so there"
                " are no values along it; train a head without question.* (training.features)"
            )
        if has_end and pooling in ("last", "delta"):
            raise CriticError(
                f"the head reads {name} at the end of an output (prompt.end), which no prefix has,"
                " so there are no values along it; train a head with prompt.end=none, or without"
                f" {pooling}.*"
            )


def prefix_lengths(ids: Sequence[int], by: By, decode: Decode) -> tuple[int, ...]:
    """Return the lengths of the prefixes in tokens: ascending, the last is the number of ids.

    A line ends with the token that has its line break. A token with several, or with the spaces of
    the next line, ends one prefix.
    """
    if by == "tokens":
        return tuple(range(1, len(ids) + 1))
    if by == "lines":
        breaks = [place for place, one in enumerate(ids, 1) if "\n" in decode([one])]
        return tuple(dict.fromkeys([*breaks, len(ids)]))
    return tuple(sorted({-(-len(ids) * part // by) for part in range(1, by + 1)}))


def prefix_texts(ids: Sequence[int], lengths: Sequence[int], decode: Decode) -> tuple[str, ...]:
    """Return the text that each prefix adds to the one before it.

    A character whose bytes are in several tokens belongs to the prefix that completes it. Tokens
    are decoded after those of the prefix before, as some tokenizers drop a text's first space.
    """
    texts, context, done = [], 0, 0
    for length in lengths:
        text = decode(ids[context:length])[len(decode(ids[context:done])) :]
        if text.endswith(_INCOMPLETE) and length < lengths[-1]:
            texts.append("")
            continue
        texts.append(text)
        context, done = done, length
    return tuple(texts)


def in_parts(counts: Sequence[int], limit: int) -> list[slice]:
    """Cut consecutive samples so that each part has at most `limit` prefixes, or one sample."""
    parts, start, total = [], 0, 0
    for place, count in enumerate(counts):
        if place > start and total + count > limit:
            parts.append(slice(start, place))
            start, total = place, 0
        total += count
    return [*parts, slice(start, len(counts))] if counts else []
