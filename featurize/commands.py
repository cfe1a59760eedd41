"""The commands of stage 1: `critic featurize`."""

import os
import sys
from dataclasses import replace
from typing import Annotated

import typer

from configs.command import (
    ConfigOption,
    DebugOption,
    OverwriteOption,
    SetOption,
    SplitOption,
    load_settings,
    reports_errors,
)
from configs.terminal import console, rows_table


@reports_errors
def featurize_command(
    split: SplitOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    limit_problems: Annotated[
        int | None, typer.Option(help="Only so many problems, chosen by the hash of their ids")
    ] = None,
    plan_only: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    from transformers.utils.logging import disable_progress_bar

    from featurize.extract import remove_store, run_featurize
    from featurize.job import FeaturizeJob, plan_featurize
    from featurize.launch import LAUNCHED, choose_workers, launch
    from featurize.model.device import resolve_device
    from featurize.progress import TokenProgress
    from featurize.ranks import Ranks

    settings, layout = load_settings(config, overrides)
    job = FeaturizeJob(
        backbone=settings.models.policy,
        dataset=settings.dataset,
        featurize=settings.featurize,
        runtime=settings.runtime,
        split=split,
        store_dir=layout.features_dir(split),
        cache_dir=layout.cache_dir,
        limit_problems=limit_problems,
    )
    is_launched = LAUNCHED in os.environ
    is_rank = "RANK" in os.environ
    disable_progress_bar()  # of transformers, which would draw over ours
    plan = plan_featurize(job)
    if overwrite and not is_rank and not plan_only:
        remove_store(job.store_dir)  # after the plan: a mistake found there costs no features
        plan = replace(plan, finished=None)
    if plan.finished is not None:
        console().print(f"featurize: up to date, nothing done: {job.store_dir}")
        return
    if not is_launched and os.environ.get("RANK", "0") == "0":
        console().print(rows_table(f"plan: featurize {split}", plan.describe()))
    if plan_only:
        return
    device = resolve_device(job.runtime.device)
    workers = choose_workers(device, job.featurize.workers, len(plan.units), plan.memory_bytes)
    if not is_rank and workers > 1:
        arguments = [argument for argument in sys.argv[1:] if argument != "--overwrite"]
        if code := launch(workers, arguments):
            raise typer.Exit(code)
        return
    ranks = Ranks()
    with TokenProgress(console(), plan.estimated_tokens, is_shown=ranks.is_first) as reporter:
        summary = run_featurize(plan, ranks, reporter)
        reporter.finish(summary.counts.get("unique_tokens", 0))
    if ranks.is_first:
        console().print(rows_table(f"features in {job.store_dir}", summary.describe()))
