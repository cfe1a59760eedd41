"""The commands of stage 1: `critic featurize`."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

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
from configs.terminal import columns_table, console, rows_table

if TYPE_CHECKING:
    from configs.config import Config
    from featurize.arrays import Ints
    from featurize.run.selection import Choose


@reports_errors
def featurize_command(
    split: SplitOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    limit_problems: Annotated[
        int | None, typer.Option(help="Only so many problems, chosen by the hash of their ids")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Only the samples of the pairs train-head --pairs N draws")
    ] = None,
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine", show_default="featurize.workers"),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Show the plan and stop.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Read every finished unit first; redo those that are damaged."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    from featurize.run.launch import LAUNCHED, follow_launcher

    follow_launcher()  # first of all: what comes now takes seconds

    from featurize.run.plan import FeaturizeJob
    from featurize.run.session import run_session, to_repeat

    extra = [] if pairs is None else [f"data_sampling.pairwise.n_pairs={pairs}"]
    settings, layout = load_settings(config, [*(overrides or []), *extra])
    job = FeaturizeJob(
        backbone=settings.models.policy,
        dataset=settings.dataset,
        featurize=settings.featurize,
        runtime=settings.runtime,
        split=split,
        store_dir=layout.features_dir(split),
        cache_dir=layout.cache_dir,
        distributed=settings.distributed,
        limit_problems=limit_problems,
        repair=repair,
        command=to_repeat(sys.argv[1:]),
    )
    if "RANK" in os.environ and LAUNCHED not in os.environ:
        _refuse_options_of_a_launcher(nproc_per_node, overwrite)
    run_session(
        job,
        title=f"plan: featurize {split}",
        nproc_per_node=nproc_per_node,
        plan_only=plan_only,
        overwrite=overwrite,
        choose=_pair_planner(settings, split) if pairs is not None else None,
    )


@reports_errors
def inspect_command(
    store: Annotated[str, typer.Argument(help="Folder or URI of a feature store")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its checksum.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what a feature store is, from what it was made, and whether it is whole."""
    from configs.progress import CountProgress
    from featurize.store.inspect import inspect_store
    from featurize.store.report import TENSOR_COLUMNS

    with CountProgress(console(), "inspect", "units") as count:
        report = inspect_store(store, verify=verify, progress=count)
    console().print(rows_table(f"feature store {report.path}", report.describe()))
    if report.tensors:
        console().print(columns_table("tensors", TENSOR_COLUMNS, report.describe_tensors()))
    report.check()


def _pair_planner(settings: "Config", split: str) -> "Choose":
    """Plans the pairs that train-head will ask for, with the same settings, over an index."""
    import pyarrow as pa

    from featurize.run.selection import Selection
    from featurize.settings import to_split
    from headtrain.pairs.pair_plan import read_excluded_problems
    from headtrain.pairs.training_plan import plan_training, to_planned

    if to_split(split) != "train":
        raise ValueError(
            f"--pairs is about the samples a head is trained on, not those of {split}; leave it "
            "out, or give --limit-problems"
        )
    sampling = settings.data_sampling
    excluded = read_excluded_problems(sampling.pairwise)
    terms: dict[str, Any] = {
        "excluded": excluded,
        "train_holdout": settings.evaluation.train_holdout,
    }

    def choose(table: pa.Table, count_outputs: "Callable[[], Ints]") -> Selection:
        if sampling.pairwise.length_matched:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, sampling, **terms)
        return Selection(pairs=to_planned(plan, sampling, **terms), also=plan.held_out)

    return choose


def _refuse_options_of_a_launcher(nproc_per_node: int | None, overwrite: bool) -> None:
    """Raises ValueError for what only the process that starts the others can do."""
    if nproc_per_node is not None:
        raise ValueError(
            f"--nproc-per-node {nproc_per_node} stands behind the command, but torchrun starts the"
            " processes: give it to torchrun, before -m cli"
        )
    if overwrite:
        raise ValueError(
            "--overwrite is not for torchrun, whose restarts would delete what was finished; delete"
            " the store's folder before"
        )
