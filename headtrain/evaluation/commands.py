"""The commands that judge: `critic eval`."""

from typing import Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    SetOption,
    SplitOption,
    load_settings,
    reports_errors,
)
from configs.terminal import console
from headtrain.project import make_tracker, open_store


@reports_errors
def eval_command(
    split: SplitOption = "valid",
    head: Annotated[
        str | None,
        typer.Option(help="Folder or URI of a head [default: best, else final]"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Judge a head on a split: accuracy, gaps, and what trivial judges get on the same pairs."""
    from featurize.settings import to_split
    from headtrain.checkpoint import load_head
    from headtrain.evaluation.judge import judge_head, to_metrics, write_evaluation
    from headtrain.evaluation.tables import judges_table, values_table

    settings, layout = load_settings(config, overrides)
    split = to_split(split)
    trained = load_head(head or layout.checkpoint_dir)
    stores = {str(name): open_store(settings, layout, name) for name in {"train": 0, split: 0}}
    evaluation = judge_head(trained, stores, settings.evaluation, seed=settings.runtime.seed)
    path = layout.evaluation_dir / f"{split}.json"
    if is_new := write_evaluation(path, evaluation, trained):
        metrics = to_metrics(evaluation, split)
        make_tracker(settings, layout).log_evaluation(
            trained.record.tracking_run_id, metrics, [path]
        )
    console().print(judges_table(evaluation, split))
    console().print(values_table(evaluation, split))
    console().print(f"evaluation {'written to' if is_new else 'up to date:'} {path}")
