"""Samples as the backbone reads them: every token, and which of them are pooled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from featurize.data.encoder import EncodedSamples, SampleEncoder
from featurize.data.formats import prompt_of
from featurize.data.index import DatasetIndex
from featurize.data.records import Sample
from featurize.errors import DataError
from featurize.settings import Pooling

OUTPUT_POOLINGS: tuple[Pooling, ...] = ("mean", "max", "std")
"""Poolings over all tokens of an output."""


@dataclass(frozen=True, kw_only=True)
class ShownToken:
    """One token."""

    text: str
    is_control: bool
    """Whether it is a control token, which only the template can write."""


@dataclass(frozen=True, kw_only=True)
class ShownPart:
    """Neighbouring tokens of one kind."""

    name: str
    """prompt, output, end or question."""
    tokens: tuple[ShownToken, ...]
    note: str
    """What is pooled of it."""


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A sample as the backbone reads it."""

    title: str
    parts: tuple[ShownPart, ...]


def show_prompts(
    index: DatasetIndex, encoder: SampleEncoder, poolings: Sequence[Pooling], number: int
) -> Iterator[ShownSample]:
    """Yield one sample of each of the first `number` prompts of an index.

    Raises:
        DataError: `number` is below 1, or a text cannot be encoded (names file and line).
    """
    if number < 1:
        raise DataError(f"the number of prompts is {number}; it must be at least 1")
    keys = index.table["prompt_key"].combine_chunks()
    is_new = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    first = np.concatenate([[0], np.flatnonzero(is_new) + 1])[:number]
    for sample in index.read(first):
        yield _show(sample, _encode(sample, encoder), encoder, poolings)


def _encode(sample: Sample, encoder: SampleEncoder) -> EncodedSamples:
    try:
        return encoder.encode(prompt_of(sample), [sample.output])
    except ValueError as error:
        raise DataError(f"{sample.location}: {error}") from error


def _show(
    sample: Sample, encoded: EncodedSamples, encoder: SampleEncoder, poolings: Sequence[Pooling]
) -> ShownSample:
    prompt, (output,) = encoded.prompt, encoded.outputs
    suffix = encoder.suffix
    label = {True: "correct", False: "incorrect", None: "unlabelled"}[sample.is_correct]
    parts = {
        "prompt": (prompt.ids, _note("nothing is pooled", prompt.is_truncated)),
        "output": (
            output.ids,
            _note(_pooled(poolings, has_end=bool(suffix.end)), output.is_truncated),
        ),
        "end": (
            suffix.end,
            "last is its last token" if "last" in poolings else "nothing is pooled",
        ),
        "question": (suffix.question, "its last token is pooled"),
    }
    return ShownSample(
        title=f"{sample.location}: problem {sample.problem_id}, sample {sample.task_id}, {label}",
        parts=tuple(
            ShownPart(name=name, tokens=tuple(_tokens(ids, encoder)), note=note)
            for name, (ids, note) in parts.items()
            if ids
        ),
    )


def _pooled(poolings: Sequence[Pooling], *, has_end: bool) -> str:
    """What is pooled of an output."""
    over_all = [name for name in poolings if name in OUTPUT_POOLINGS]
    notes = [f"{', '.join(over_all)} over all its tokens"] if over_all else []
    if "last" in poolings and not has_end:
        notes.append("last is its last token")
    return "; ".join(notes) or "nothing is pooled"


def _note(pooled: str, is_truncated: bool) -> str:
    return f"{pooled}; truncated" if is_truncated else pooled


def _tokens(ids: Sequence[int], encoder: SampleEncoder) -> Iterator[ShownToken]:
    for number in ids:
        text = encoder.tokenizer.decode([number], skip_special_tokens=False)
        is_control = encoder.format.plain.is_control(number)
        yield ShownToken(text=str(text), is_control=is_control)
