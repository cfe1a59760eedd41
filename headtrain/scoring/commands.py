"""The command that scores what has no label: `critic score`."""

from typing import Annotated

import typer

from configs.command import ConfigOption, DebugOption, SetOption, reports_errors
from configs.terminal import console, rows_table


@reports_errors
def score_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows to score: a file or a glob")],
    out: Annotated[str, typer.Option(help="File to write: .jsonl, .jsonl.gz or .zst, .parquet")],
    head: Annotated[
        str | None,
        typer.Option(help="Folder or URI of a head", show_default="best, else final"),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the new fields.")] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Read stored features first; redo damaged ones.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the rows of a file again, each with its score, probability and rank."""
    import os

    from featurize.run.launch import LAUNCHED, follow_launcher

    follow_launcher()  # first of all: what comes now takes seconds

    from featurize.data.index import DatasetIndex
    from headtrain.scoring.external import featurize_file, find_decision, find_head
    from headtrain.scoring.output import FieldsToAdd, check_output, to_output, write_rows
    from headtrain.scoring.rows import field_names, fields_of_rows
    from headtrain.scoring.summary import describe_scores
    from headtrain.scoring.values import column_names, judge_samples

    path = to_output(out)
    at_hand = find_head(head, config, overrides or [])
    # Only the process that writes needs it, but it is to fail before hours of work.
    decision = None if LAUNCHED in os.environ else find_decision(at_hand)
    index = DatasetIndex.build(file, at_hand.layout.cache_dir / "index")
    names = field_names(index.table, column_names(at_hand.head), prefix)
    check_output(path, index.sources, names)
    store = featurize_file(at_hand, index, repair=repair)
    if store is None or decision is None:  # another process goes on
        return
    values = judge_samples(at_hand.head, store, decision.calibration)
    added = FieldsToAdd(
        names=names, rows=lambda: fields_of_rows(index.table, values.columns, prefix)
    )
    num_rows = write_rows(path, index.sources, added)
    summary = describe_scores(values, store.samples, num_rows)
    console().print(rows_table(f"scores of {at_hand.head.path} in {out}", summary))
