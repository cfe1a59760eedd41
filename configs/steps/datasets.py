"""Steps that make datasets and look into them: `critic prepare` and `critic audit`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.console import CountProgress, console, keep_fonts_in
from configs.displays import announce_protection, show_audit, show_labelled, show_prepared
from configs.project import Project
from configs.steps.features import count_split_tokens

if TYPE_CHECKING:
    from featurize.data.audit.report import Audit
    from featurize.data.index import DatasetIndex
    from featurize.data.prepare.from_tests.summary import PrepareSummary

DEFAULT_CAP = 60
"""Pairs per problem that an audit assumes if no cap is set."""


def label_programs(
    prepare: "Callable[..., PrepareSummary]",
    project: Project,
    folder: Path,
    *,
    overwrite: bool,
    is_unsafe_allowed: bool,
) -> None:
    """Run `prepare`, which labels programs by running them, with a bar, and show its summary."""
    with CountProgress("prepare", "problems") as count:
        summary = prepare(
            out_dir=folder,
            settings=project.settings.prepare,
            overwrite=overwrite,
            is_unsafe_allowed=is_unsafe_allowed,
            announce=announce_protection,
            progress=count,
        )
    show_labelled(summary, folder)


def convert_codecontests(
    project: Project, source: str, out: Path | None, split_files: list[str], *, overwrite: bool
) -> None:
    """Make samples of the published files of CodeContests, and show their counts."""
    from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests

    settings, layout = project.settings, project.layout
    max_tokens = settings.prepare.codecontests.max_tokens
    token_limit = None
    if max_tokens is not None:
        from featurize.data.prepare.codecontests.tokens import TokenLimit

        token_limit = TokenLimit.load(settings.models.policy, layout.cache_dir, max_tokens)
    job = CodeContestsJob(
        source=source,
        out_dir=out or layout.datasets_dir / "codecontests" / "processed",
        settings=settings.prepare,
        split_files=split_files,
        token_limit=token_limit,
        cache_dir=layout.cache_dir / "index",
    )
    with CountProgress("prepare", "problems") as count:
        prepared = prepare_codecontests(job, overwrite=overwrite, progress=count)
    show_prepared(prepared, job.out_dir)


def audit(
    project: Project, split: str, index: "DatasetIndex", against: str | None, *, has_tokens: bool
) -> "Audit":
    """Audit a split, beside another one if there is one; show the audit and write it."""
    from featurize.data.audit.report import AuditRequest, audit_split, write_audit

    settings, layout = project.settings, project.layout
    others = project.open_index(against) if against is not None else None
    counted = count_split_tokens(project, index) if has_tokens else None
    pairwise = settings.data_sampling.pairwise
    request = AuditRequest(
        split=split,
        against=against,
        caps=(pairwise.max_pairs_per_problem or DEFAULT_CAP,),
        length_bin_tokens=pairwise.length_bin_tokens,
        threshold=settings.prepare.similarity,
        ngram=settings.prepare.ngram,
    )
    with CountProgress("audit", "samples") as progress:
        found = audit_split(index, others, request, counted, progress)
    show_audit(found)
    keep_fonts_in(layout.cache_dir)
    written = write_audit(layout.audit_dir / split, found)
    names = ", ".join(path.name for path in written)
    console().print(f"audit written to {written[0].parent}: {names}")
    return found
