"""What a backbone will read of a dataset: tokens to compute, and how much of it is cut off."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools
from featurize.data.audit.rows import by_power_of_two
from featurize.data.token_counts import Int32s, TokenCounts, first_of_prompts, unique_tokens

QUANTILES = (0.5, 0.9, 0.99, 1.0)

LOSSES = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Shares of a text; told is how many lose more than that."""


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """Tokens of many texts, before anything is cut."""

    num_texts: int
    num_tokens: int
    quantiles: dict[str, int]
    """Largest length of the shortest half, nine tenths, ...: `0.5`, `0.9`, ..."""
    histogram: dict[int, int]
    """Texts by length: those below each power of two that the one before does not count."""


@dataclass(frozen=True, kw_only=True)
class CutSummary:
    """What max_length takes away from texts of one kind."""

    num_cut: int
    num_tokens_lost: int
    num_losing_more_than: dict[str, int]
    """Texts that lose more than this share of their tokens."""


@dataclass(frozen=True, kw_only=True)
class TokenAudit:
    """The token counts of a split."""

    tokenizer: str
    max_length: int
    prompt_limit: int
    prompts: LengthSummary
    """Each statement once."""
    outputs: LengthSummary
    """Each sample."""
    prompts_cut: CutSummary
    outputs_cut: CutSummary
    num_samples_with_cut_prompt: int
    share_cut_of_correct: float | None
    """Correct outputs that are cut: if it differs from the next, cutting tells the label."""
    share_cut_of_incorrect: float | None
    num_empty_outputs: int
    """Outputs without tokens, which featurize refuses."""
    unique_tokens: int
    """Tokens to compute: each prompt once, each distinct output of it once."""
    all_tokens: int
    """The same without sharing: the prompt with every sample."""


def audit_tokens(
    table: pa.Table, counts: TokenCounts, *, tokenizer: str, max_length: int, prompt_limit: int
) -> TokenAudit:
    """Summarise the counts of an index's table."""
    cut = counts.cut(max_length, prompt_limit)
    is_first = first_of_prompts(table)
    labels = pc.fill_null(table["is_correct"], False).to_numpy()
    is_labelled = pc.is_valid(table["is_correct"]).to_numpy()
    is_cut = cut.outputs < counts.outputs
    return TokenAudit(
        tokenizer=tokenizer,
        max_length=max_length,
        prompt_limit=prompt_limit,
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
