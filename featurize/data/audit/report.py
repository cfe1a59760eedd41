"""An audit as a whole: made from indexes, written as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featurize.data.audit.labels import LabelAudit, Slice, audit_labels, slice_by
from featurize.data.audit.lengths import LengthAudit, audit_lengths
from featurize.data.audit.overlap import OverlapAudit, audit_overlap, read_statements
from featurize.data.audit.rows import LabelledRows, read_labelled_rows
from featurize.data.audit.texts import Progress, TextAudit, audit_texts, read_texts
from featurize.data.audit.tokens import TokenAudit, audit_tokens
from featurize.data.index import DatasetIndex
from featurize.data.token_counts import TokenCounts

CHARS_PER_TOKEN = 3
"""For length bins where tokens have not been counted."""


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What is asked of an audit."""

    split: str
    against: str | None
    caps: tuple[int, ...]
    """Caps of pairs per problem to try."""
    length_bin_tokens: int
    threshold: float
    """Similarity from which on two statements are near-duplicates."""
    ngram: int


@dataclass(frozen=True, kw_only=True)
class CountedTokens:
    """The token counts of a split, and how much of a sample is read."""

    counts: TokenCounts
    tokenizer: str
    max_length: int
    prompt_limit: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a split would teach."""

    split: str
    content_fingerprint: str
    labels: LabelAudit
    difficulties: tuple[Slice, ...]
    languages: tuple[Slice, ...]
    sources: tuple[Slice, ...]
    lengths: tuple[LengthAudit, ...]
    overlap: OverlapAudit
    texts: TextAudit
    tokens: TokenAudit | None
    """Only where tokens were counted."""

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return asdict(self)


def audit_split(
    index: DatasetIndex,
    against: DatasetIndex | None,
    request: AuditRequest,
    tokens: CountedTokens | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit a split, and its overlap with another one."""
    table = index.table
    labelled = read_labelled_rows(table)
    overlap = audit_overlap(
        read_statements(index),
        read_statements(against) if against is not None else [],
        against=request.against,
        threshold=request.threshold,
        ngram=request.ngram,
    )
    return Audit(
        split=request.split,
        content_fingerprint=index.content_fingerprint,
        labels=audit_labels(table, labelled, request.caps),
        difficulties=slice_by(table, labelled, "difficulty"),
        languages=slice_by(table, labelled, "language"),
        sources=slice_by(table, labelled, "source"),
        lengths=tuple(_lengths(index, labelled, request, tokens)),
        overlap=overlap,
        texts=audit_texts(table, labelled, read_texts(index, progress)),
        tokens=None
        if tokens is None
        else audit_tokens(
            table,
            tokens.counts,
            tokenizer=tokens.tokenizer,
            max_length=tokens.max_length,
            prompt_limit=tokens.prompt_limit,
        ),
    )


def _lengths(
    index: DatasetIndex,
    labelled: LabelledRows,
    request: AuditRequest,
    tokens: CountedTokens | None,
) -> Sequence[LengthAudit]:
    chars = index.table["output_chars"].to_numpy().astype(np.int64)[labelled.rows]
    width = request.length_bin_tokens
    found = [audit_lengths(labelled, chars, unit="characters", matched_bin=width * CHARS_PER_TOKEN)]
    if tokens is not None:
        cut = tokens.counts.cut(tokens.max_length, tokens.prompt_limit).outputs
        lengths = cut.astype(np.int64)[labelled.rows]
        found.append(audit_lengths(labelled, lengths, unit="tokens", matched_bin=width))
    return found
