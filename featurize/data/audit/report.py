"""The audit of a split: computed from an index, shown as tables, written as JSON and figures."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.data.audit.labels import (
    LabelAudit,
    LabelledRows,
    Slice,
    audit_labels,
    read_labelled_rows,
    show_labels,
    show_slices,
    slice_by,
)
from featurize.data.audit.section import Columns, Rows, Section
from featurize.data.audit.shortcuts import (
    AuthorAudit,
    LengthAudit,
    audit_authors,
    audit_lengths,
    show_authors,
    show_lengths,
)
from featurize.data.audit.texts import (
    OverlapAudit,
    Progress,
    TextAudit,
    audit_overlap,
    audit_texts,
    read_statements,
    read_texts,
    show_overlap,
    show_texts,
)
from featurize.data.audit.tokens import CountedTokens, TokenAudit, audit_tokens, show_tokens
from featurize.data.index import DatasetIndex
from featurize.io.figures import drawing, to_png
from featurize.io.files import atomic_path, write_json

CHARS_PER_TOKEN = 3
"""For length bins if tokens have not been counted."""


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """The parameters of an audit."""

    split: str
    against: str | None
    caps: tuple[int, ...]
    """Caps of pairs per problem to try."""
    length_bin_tokens: int
    threshold: float
    """Similarity from which two statements are near-duplicates."""
    ngram: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All numbers about a split; the fields are the keys of audit.json."""

    split: str
    content_fingerprint: str
    labels: LabelAudit
    difficulties: tuple[Slice, ...]
    languages: tuple[Slice, ...]
    sources: tuple[Slice, ...]
    authors: AuthorAudit | None
    """None if no sample names its author."""
    lengths: tuple[LengthAudit, ...]
    overlap: OverlapAudit
    texts: TextAudit
    tokens: TokenAudit | None
    """None if tokens were not counted."""

    def to_json(self) -> dict[str, Any]:
        """Get the content of audit.json."""
        return asdict(self)

    def sections(self) -> list[Section]:
        """List what to show, in order."""
        return [
            show_labels(self.labels, self.split),
            show_lengths(self.lengths),
            show_slices(self.difficulties, "difficulty"),
            show_slices(self.languages, "language"),
            show_slices(self.sources, "source"),
            *([show_authors(self.authors)] if self.authors else []),
            show_overlap(self.overlap, self.split),
            show_texts(self.texts),
            *([show_tokens(self.tokens)] if self.tokens else []),
        ]


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
        authors=audit_authors(table, labelled),
        lengths=tuple(_lengths(index, labelled, request, tokens)),
        overlap=overlap,
        texts=audit_texts(table, labelled, read_texts(index, progress)),
        tokens=audit_tokens(table, tokens) if tokens else None,
    )


def _lengths(
    index: DatasetIndex,
    labelled: LabelledRows,
    request: AuditRequest,
    tokens: CountedTokens | None,
) -> Iterator[LengthAudit]:
    chars = index.table["output_chars"].to_numpy().astype(np.int64)[labelled.rows]
    width = request.length_bin_tokens
    yield audit_lengths(labelled, chars, unit="characters", matched_bin=width * CHARS_PER_TOKEN)
    if tokens is not None:
        lengths = tokens.cut().outputs.astype(np.int64)[labelled.rows]
        yield audit_lengths(labelled, lengths, unit="tokens", matched_bin=width)


def to_tables(audit: Audit) -> Iterator[Rows | Columns]:
    """Yield the tables of all sections, in order."""
    return itertools.chain.from_iterable(section.tables for section in audit.sections())


def write_audit(folder: Path, audit: Audit) -> list[Path]:
    """Write audit.json, the problems to exclude and all figures; returns the paths written."""
    written = [folder / "audit.json"]
    write_json(written[0], audit.to_json())
    if audit.overlap.against is not None:
        written.append(folder / "overlapping.txt")
        with atomic_path(written[-1]) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in audit.overlap.shared_ids))
    for section in audit.sections():
        for name, draw in section.figures.items():
            with drawing() as (figure, axes), atomic_path(folder / f"{name}.png") as temporary:
                draw(axes)
                if axes.get_legend_handles_labels()[0]:
                    axes.legend()
                temporary.write_bytes(to_png(figure))
            written.append(folder / f"{name}.png")
    return written
