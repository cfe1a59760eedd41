"""The tokens that a backbone reads: how many, how many are truncated, and which of a sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools
from featurize.data.audit.section import (
    Columns,
    Rows,
    Section,
    by_power_of_two,
    draw_by_power_of_two,
    rows_of,
    shown,
)
from featurize.data.encoder import EncodedSamples, SampleEncoder
from featurize.data.formats import prompt_of
from featurize.data.index import DatasetIndex
from featurize.data.records import Sample
from featurize.data.token_counts import Int32s, TokenCounts, first_of_prompts, unique_tokens
from featurize.errors import DataError
from featurize.io.figures import CORRECT, FAINT, INCORRECT
from featurize.settings import Pooling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = (0.5, 0.9, 0.99, 1.0)

LOSSES = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Shares of a text: texts that lose more are counted for each."""


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """Tokens of many texts before truncation."""

    num_texts: int
    num_tokens: int
    quantiles: dict[str, int]
    """Quantile, as in `0.9` -> length."""
    histogram: dict[int, int]
    """Texts by length: those below each power of two and not below the one before."""


@dataclass(frozen=True, kw_only=True)
class CutSummary:
    """The effect of truncation on the texts of one kind."""

    num_cut: int
    num_tokens_lost: int
    num_losing_more_than: dict[str, int]
    """Share of the tokens -> texts that lose more than that."""


@dataclass(frozen=True, kw_only=True)
class TokenAudit:
    """The token counts of a split."""

    tokenizer: str
    max_length: int
    prompt_limit: int
    prompts: LengthSummary
    """Of every statement, once."""
    outputs: LengthSummary
    """Of every sample."""
    prompts_cut: CutSummary
    outputs_cut: CutSummary
    unique_tokens: int = shown("each prompt and distinct output once")
    all_tokens: int = shown("each sample with its prompt")
    num_samples_with_cut_prompt: int = shown("samples with a truncated prompt")
    share_cut_of_correct: float | None = shown("share of correct outputs truncated")
    """If it differs from the next, truncation leaks the label."""
    share_cut_of_incorrect: float | None = shown("share of incorrect outputs truncated")
    num_empty_outputs: int = shown("outputs without tokens, rejected")


@dataclass(frozen=True, kw_only=True)
class CountedTokens:
    """The token counts of a split, and the limits of a sample."""

    counts: TokenCounts
    tokenizer: str
    max_length: int
    prompt_limit: int

    def cut(self) -> TokenCounts:
        """Apply the limits to the counts."""
        return self.counts.cut(self.max_length, self.prompt_limit)


def audit_tokens(table: pa.Table, counted: CountedTokens) -> TokenAudit:
    """Summarise the token counts of an index's table."""
    counts, cut = counted.counts, counted.cut()
    is_first = first_of_prompts(table)
    labels = pc.fill_null(table["is_correct"], False).to_numpy()
    is_labelled = pc.is_valid(table["is_correct"]).to_numpy()
    is_cut = cut.outputs < counts.outputs
    return TokenAudit(
        tokenizer=counted.tokenizer,
        max_length=counted.max_length,
        prompt_limit=counted.prompt_limit,
        prompts=_summarise(counts.prompts[is_first]),
        outputs=_summarise(counts.outputs),
        prompts_cut=_cut(counts.prompts[is_first], cut.prompts[is_first]),
        outputs_cut=_cut(counts.outputs, cut.outputs),
        num_samples_with_cut_prompt=int((cut.prompts < counts.prompts).sum()),
        share_cut_of_correct=_share(is_cut[is_labelled & labels]),
        share_cut_of_incorrect=_share(is_cut[is_labelled & ~labels]),
        num_empty_outputs=int((counts.outputs == 0).sum()),
        unique_tokens=unique_tokens(table, cut),
        all_tokens=int(cut.prompts.sum(dtype=np.int64) + cut.outputs.sum(dtype=np.int64)),
    )


def _summarise(lengths: Int32s) -> LengthSummary:
    return LengthSummary(
        num_texts=len(lengths),
        num_tokens=int(lengths.sum(dtype=np.int64)),
        quantiles={
            f"{share:g}": int(np.quantile(lengths, share, method="inverted_cdf"))
            for share in QUANTILES
        },
        histogram=by_power_of_two(lengths),
    )


def _cut(whole: Int32s, kept: Int32s) -> CutSummary:
    lost = (whole - kept).astype(np.int64)
    share = lost / np.maximum(whole, 1)
    return CutSummary(
        num_cut=int((lost > 0).sum()),
        num_tokens_lost=int(lost.sum()),
        num_losing_more_than={f"{limit:g}": int((share > limit).sum()) for limit in LOSSES},
    )


def _share(flags: Bools) -> float | None:
    return float(flags.mean()) if len(flags) else None


def show_tokens(tokens: TokenAudit) -> Section:
    """Show the lengths of the texts, what is cut off, and the tokens to compute."""
    before = Columns(
        title=f"tokens before truncation ({tokens.tokenizer})",
        columns=("texts", "number", "tokens", "median", "90%", "99%", "longest"),
        rows=[
            (name, part.num_texts, part.num_tokens, *part.quantiles.values())
            for name, part in (("prompts", tokens.prompts), ("outputs", tokens.outputs))
        ],
    )
    limits = [f"lose > {float(limit):.0%}" for limit in tokens.outputs_cut.num_losing_more_than]
    lost = Columns(
        title=f"truncated at {tokens.max_length:,} tokens, prompts at {tokens.prompt_limit:,}",
        columns=("texts", "truncated", "tokens lost", *limits[1:]),
        rows=[
            (name, part.num_cut, part.num_tokens_lost, *[*part.num_losing_more_than.values()][1:])
            for name, part in (("prompts", tokens.prompts_cut), ("outputs", tokens.outputs_cut))
        ],
    )
    to_compute = Rows(title="tokens to compute", rows=rows_of(tokens))
    return Section(tables=[before, lost, to_compute], figures={"tokens": partial(_draw, tokens)})


def _draw(tokens: TokenAudit, axes: "Axes") -> None:
    for part, colour, name in (
        (tokens.prompts, CORRECT, "prompts"),
        (tokens.outputs, INCORRECT, "outputs"),
    ):
        label = f"{part.num_texts:,} {name}, {part.num_tokens:,} tokens"
        draw_by_power_of_two(axes, part.histogram, label, color=colour)
    axes.axvline(tokens.prompt_limit, color=CORRECT, linestyle=":", label="limit of prompts")
    axes.axvline(tokens.max_length, color=FAINT, linestyle="--", label="limit of prompt + output")
    axes.set_xlabel("tokens before truncation")
    axes.set_ylabel("% of prompts, of outputs")
    axes.set_title(
        f"truncated: {tokens.prompts_cut.num_cut:,} prompts, {tokens.outputs_cut.num_cut:,} outputs"
    )


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
    for sample in index.read(np.flatnonzero(first_of_prompts(index.table))[:number]):
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
