"""The commands that make and audit datasets: `critic prepare` and `critic audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.console import (
    CountProgress,
    columns_table,
    console,
    end_unmet,
    keep_fonts_in,
    rows_table,
    show_up_to_date,
)
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import Project
    from featurize.data.audit.report import Audit
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.index import DatasetIndex
    from featurize.data.prepare.from_tests.job import Origin
    from featurize.data.prepare.from_tests.sandbox import Protection
    from featurize.data.prepare.harness import Harness
    from featurize.data.prepare.prepared import Prepared

DEFAULT_CAP = 60
"""Pairs per problem that an audit assumes if no cap is set."""


def prepare_tests(
    chosen: Chosen,
    source: str,
    out: Path | None = None,
    overwrite: bool = False,
    unsafe: bool = False,
) -> None:
    """Make labelled programs by running tests: rewrites that pass and mutants that fail.

    Settings are in the section `prepare`, e.g. --set prepare.correct=2.
    """
    from featurize.data.prepare.from_tests.job import origin_of_tests

    project = chosen.project()
    folder = out or project.layout.datasets_dir / Path(source).name.split(".")[0]
    _label_programs(
        origin_of_tests(source), project, folder, overwrite=overwrite, is_unsafe_allowed=unsafe
    )


def prepare_doctests(
    chosen: Chosen,
    packages: list[str],
    out: Path | None = None,
    overwrite: bool = False,
    unsafe: bool = False,
) -> None:
    """Make labelled programs of functions of installed packages by running their doctests.

    Settings are in the sections `prepare` and `prepare.doctests`.
    """
    from featurize.data.prepare.from_tests.doctests import origin_of_doctests

    project = chosen.project()
    folder = out or project.layout.datasets_dir / "-".join(packages)
    origin = origin_of_doctests(packages, project.settings.prepare.doctests.max_chars)
    _label_programs(origin, project, folder, overwrite=overwrite, is_unsafe_allowed=unsafe)


def _label_programs(
    origin: "Origin", project: "Project", folder: Path, *, overwrite: bool, is_unsafe_allowed: bool
) -> None:
    """Label the programs of these problems by running them, with a bar, and show the summary."""
    from featurize.data.prepare.from_tests.job import make_dataset

    def announce(protection: "Protection") -> None:
        console().print(f"prepare: {protection.describe()}", soft_wrap=True)

    with CountProgress("prepare", "problems") as count:
        summary = make_dataset(
            origin,
            out_dir=folder,
            settings=project.settings.prepare,
            overwrite=overwrite,
            is_unsafe_allowed=is_unsafe_allowed,
            announce=announce,
            progress=count,
        )
    if summary.was_up_to_date:
        show_up_to_date("prepare", folder)
    else:
        console().print(rows_table(f"prepared {folder}", summary.describe()))


def prepare_codecontests(
    chosen: Chosen,
    source: str,
    out: Path | None = None,
    split_files: list[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Turn the published files of CodeContests into samples, one file per split.

    Settings are in the section `prepare.codecontests`,
    e.g. --set prepare.codecontests.max_solutions=50.
    """
    from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests
    from featurize.data.prepare.codecontests.selection import TokenLimit

    project = chosen.project()
    settings, layout = project.settings, project.layout
    max_tokens = settings.prepare.codecontests.max_tokens
    token_limit = None
    if max_tokens is not None:
        token_limit = TokenLimit.load(settings.models.policy, layout.cache_dir, max_tokens)
    job = CodeContestsJob(
        source=source,
        out_dir=out or layout.datasets_dir / "codecontests" / "processed",
        settings=settings.prepare,
        split_files=split_files or [],
        token_limit=token_limit,
        cache_dir=layout.cache_dir / "index",
    )
    with CountProgress("prepare", "problems") as count:
        prepared = prepare_codecontests(job, overwrite=overwrite, progress=count)
    _show_prepared(prepared, job.out_dir)


def prepare_human_eval(
    source: Path, out: Path, problems: str | None = None, overwrite: bool = False
) -> None:
    """Turn samples of human-eval into rows; `score --best` writes the best ones back."""
    _prepare_samples("human-eval", source, out, problems=problems, overwrite=overwrite)


def prepare_evalplus(
    source: Path,
    out: Path,
    problems: str | None = None,
    results: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Turn samples of evalplus into rows; `score --best` writes the best ones back."""
    _prepare_samples(
        "evalplus", source, out, problems=problems, results=results, overwrite=overwrite
    )


def prepare_livecodebench(source: Path, out: Path, overwrite: bool = False) -> None:
    """Turn samples of livecodebench into rows; `score --best` writes the best ones back."""
    _prepare_samples("livecodebench", source, out, overwrite=overwrite)


def prepare_lm_eval(source: Path, out: Path, overwrite: bool = False) -> None:
    """Turn samples of lm-eval into rows; `score --best` writes the best ones back."""
    _prepare_samples("lm-eval", source, out, overwrite=overwrite)


def _prepare_samples(harness: "Harness", source: Path, out: Path, **options: Any) -> None:
    """Write the samples of a harness as rows and show counts; options as `prepare_harness`."""
    from featurize.data.prepare.harness import prepare_harness

    counts = prepare_harness(harness, source, out, **options)
    console().print(rows_table(f"prepared {out}", counts.describe()))


def prepare_columns(
    chosen: Chosen,
    source: list[str],
    out: Path,
    columns: list[str] | None = None,
    correct_values: list[str] | None = None,
    incorrect_values: list[str] | None = None,
    join: str | None = None,
    on: str | None = None,
    normalise: Literal["python"] | None = None,
    rewrites: int = 0,
    overwrite: bool = False,
) -> None:
    """Turn a dataset with other column names into samples.

    Fields: instruction, input, output, is_correct, problem_id, task_id, metadata.language and so
    on; or prompt, chosen, rejected, completion, label. Columns with these names need no --map.
    """
    from featurize.data.prepare.columns import ColumnsJob, JoinOptions, prepare_columns
    from featurize.data.prepare.mapping import ColumnMap, LabelValues, to_values

    project = chosen.project()
    labels = LabelValues(
        correct=to_values(correct_values or ()), incorrect=to_values(incorrect_values or ())
    )
    job = ColumnsJob(
        sources=source,
        out=out,
        columns=ColumnMap.parse(columns or (), labels),
        join=JoinOptions.of(join, on),
        output_format=project.settings.prepare.output_format,
        normalise=normalise is not None,
        copies=rewrites,
        cache_dir=project.layout.cache_dir / "index",
        keeps_turns=project.settings.prompt.has_turns,
    )
    with CountProgress("prepare", "MB") as count:
        prepared = prepare_columns(job, overwrite=overwrite, progress=count)
    _show_prepared(prepared, job.out)


def prepare_split(
    chosen: Chosen,
    source: list[str],
    out: Path,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 42,
    overwrite: bool = False,
) -> None:
    """Split a dataset by problem; problems with nearly the same statement stay on one side.

    prepare.similarity sets how similar that is, e.g. --set prepare.similarity=0.7.
    """
    from featurize.data.prepare.split import SplitJob, prepare_split

    project = chosen.project()
    job = SplitJob(
        sources=source,
        out_dir=out,
        valid=valid,
        test=test,
        seed=seed,
        similarity=project.settings.prepare.similarity,
        ngram=project.settings.prepare.ngram,
        cache_dir=project.layout.cache_dir / "index",
        keeps_turns=project.settings.prompt.has_turns,
    )
    _show_prepared(prepare_split(job, overwrite=overwrite), job.out_dir)


def _show_prepared(prepared: "Prepared", place: Path) -> None:
    """The counts of a dataset that was prepared, or that it was there already."""
    if prepared.was_up_to_date:
        show_up_to_date("prepare", place)
        return
    title = f"prepared {place}"
    console().print(columns_table(title, ["", *prepared.counts], prepared.describe()))
    if prepared.details:
        console().print(rows_table("", prepared.details))


def audit(
    chosen: Chosen,
    split: str = "train",
    against: str | None = None,
    tokens: bool = False,
    prompts: int | None = None,
    strict: bool = False,
) -> None:
    """Check a split before training: labels, lengths, contradictions, overlap and tokens."""
    from featurize.settings import to_split

    project = chosen.project()
    split, other = to_split(split), to_split(against) if against is not None else None
    if split == other:
        raise ValueError(f"--against {against} is the split itself; name another one")
    if prompts is not None and (other or tokens or strict):
        raise ValueError(
            "--prompts only shows samples; leave --against, --tokens and --strict out, or --prompts"
        )
    index = project.open_index(split)
    if prompts is not None:
        _show_prompts(project, index, prompts)
        return
    found = _audit(project, split, index, other, has_tokens=tokens)
    if strict and (found.overlap.shared or found.labels.num_shared_ids):
        end_unmet()


def _audit(
    project: "Project", split: str, index: "DatasetIndex", against: str | None, *, has_tokens: bool
) -> "Audit":
    """Audit a split, beside another one if there is one; show the audit and write it."""
    from featurize.data.audit.report import AuditRequest, audit_split, to_tables, write_audit
    from featurize.data.audit.section import Rows

    settings, layout = project.settings, project.layout
    others = project.open_index(against) if against is not None else None
    counted = _count_tokens(project, index) if has_tokens else None
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
    for table in to_tables(found):
        if isinstance(table, Rows):
            console().print(rows_table(table.title, table.rows))
        else:
            console().print(columns_table(table.title, table.columns, table.rows))
    keep_fonts_in(layout.cache_dir)
    written = write_audit(layout.audit_dir / split, found)
    names = ", ".join(path.name for path in written)
    console().print(f"audit written to {written[0].parent}: {names}")
    return found


def _count_tokens(project: "Project", index: "DatasetIndex") -> "CountedTokens":
    """Count the tokens of a split by the backbone's tokenizer, unless it was done before."""
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.token_counts import count_tokens, counts_path, find_counts, write_counts
    from featurize.model.source import load_tokenizer
    from featurize.run.recipe import describe_prompt

    settings = project.settings
    policy, source = settings.models.policy, project.find_backbone()
    described = describe_prompt(settings.prompt, source, policy)
    path = counts_path(project.layout.cache_dir, index, source.tokenizer_digest, described)
    counts = find_counts(path, index)
    if counts is None:
        tokenizer = load_tokenizer(source, policy)
        with CountProgress("tokens", "samples") as progress:
            counts = count_tokens(index, tokenizer, progress, settings.prompt)
        write_counts(path, counts)
    return CountedTokens(
        counts=counts,
        tokenizer=policy.name,
        max_length=settings.dataset.max_length,
        prompt_limit=settings.dataset.prompt_limit,
    )


def _show_prompts(project: "Project", index: "DatasetIndex", number: int) -> None:
    """Show some samples as the backbone reads them: a bar between tokens, control ones reversed."""
    from rich.text import Text

    from featurize.data.audit.tokens import show_prompts
    from featurize.model.source import load_tokenizer
    from featurize.run.recipe import make_encoder

    settings = project.settings
    tokenizer = load_tokenizer(project.find_backbone(), settings.models.policy)
    encoder = make_encoder(project.featurize_job("train"), tokenizer)
    for sample in list(show_prompts(index, encoder, settings.featurize.poolings, number)):
        console().print(Text(f"\n{sample.title}", style="bold"))
        for part in sample.parts:
            console().print(
                Text(f"-- {part.name}, {len(part.tokens)} tokens: {part.note}", style="cyan")
            )
            line = Text()
            for token in part.tokens:
                text = token.text.replace("\n", "⏎\n")
                line.append(text, style="reverse" if token.is_control else "")
                line.append("" if text.endswith("\n") else "│", style="dim")
            console().print(line)
