"""The commands that look at data: `critic audit`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    SetOption,
    SplitOption,
    load_settings,
    reports_errors,
)
from configs.terminal import columns_table, console, rows_table

if TYPE_CHECKING:
    from configs.config import Config
    from configs.paths import Layout
    from featurize.data.audit.report import CountedTokens
    from featurize.data.index import DatasetIndex

DEFAULT_CAP = 60
"""What is told of a cap where none is set."""


@reports_errors
def audit_command(
    split: SplitOption = "train",
    against: Annotated[
        str | None, typer.Option(help="Another split, which should share no problem with it")
    ] = None,
    tokens: Annotated[
        bool, typer.Option(help="Count tokens too; plans and --pairs use them from then on.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when the splits overlap.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Tell what a split would teach: overlap, labels, lengths, contradictions, and its tokens."""
    from configs.progress import CountProgress
    from featurize.data.audit.report import AuditRequest, audit_split
    from featurize.data.audit.tables import Rows, to_tables
    from featurize.data.index import DatasetIndex
    from featurize.settings import to_split

    settings, layout = load_settings(config, overrides)
    split, other = to_split(split), to_split(against) if against is not None else None
    if split == other:
        raise ValueError(f"--against {against} is the split itself; name another one")
    if strict and other is None:
        raise ValueError("--strict is about the overlap with another split; name it: --against")
    index = DatasetIndex.build(settings.dataset.path_of(split), layout.cache_dir / "index")
    others = (
        DatasetIndex.build(settings.dataset.path_of(other), layout.cache_dir / "index")
        if other is not None
        else None
    )
    counted = _count(settings, layout, index) if tokens else None
    pairwise = settings.data_sampling.pairwise
    request = AuditRequest(
        split=split,
        against=other,
        caps=(pairwise.max_pairs_per_problem or DEFAULT_CAP,),
        length_bin_tokens=pairwise.length_bin_tokens,
        threshold=settings.prepare.similarity,
        ngram=settings.prepare.ngram,
    )
    with CountProgress(console(), "audit", "samples") as progress:
        audit = audit_split(index, others, request, counted, progress)
    for table in to_tables(audit):
        if isinstance(table, Rows):
            console().print(rows_table(table.title, table.rows))
        else:
            console().print(columns_table(table.title, table.columns, table.rows))
    # Matplotlib keeps a list of fonts, for which it would make a folder in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", str(layout.cache_dir.absolute() / "matplotlib"))
    from featurize.data.audit.write import write_audit

    written = write_audit(layout.audit_dir / split, audit, index, counted)
    console().print(
        f"audit written to {written[0].parent}: {', '.join(path.name for path in written)}"
    )
    if strict and audit.overlap.shared:
        raise typer.Exit(1)


def _count(settings: "Config", layout: "Layout", index: "DatasetIndex") -> "CountedTokens":
    """Count the tokens of a split by the backbone's tokenizer, or find them counted."""
    from configs.progress import CountProgress
    from featurize.data.audit.report import CountedTokens
    from featurize.data.token_counts import count_tokens, counts_path, find_counts, write_counts
    from featurize.model.backbone import find_backbone, load_tokenizer
    from featurize.model.device import resolve_device, resolve_dtype

    policy, runtime = settings.models.policy, settings.runtime
    dtype = resolve_dtype(
        policy.dtype, resolve_device(runtime.device), mixed_precision=runtime.mixed_precision
    )
    source = find_backbone(policy, layout.cache_dir, dtype)
    path = counts_path(layout.cache_dir, index, source.tokenizer_digest)
    counts = find_counts(path, index)
    if counts is None:
        tokenizer = load_tokenizer(source, policy)
        with CountProgress(console(), "tokens", "samples") as progress:
            counts = count_tokens(index, tokenizer, progress)
        write_counts(path, counts)
    return CountedTokens(
        counts=counts,
        tokenizer=policy.name,
        max_length=settings.dataset.max_length,
        prompt_limit=settings.dataset.prompt_limit,
    )
