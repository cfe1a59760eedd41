"""The commands that make and inspect feature stores, and the features other commands need."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.console import (
    UP_TO_DATE,
    CountProgress,
    FeaturizeProgress,
    columns_table,
    console,
    refuse_torchrun,
    rows_table,
    show_up_to_date,
)
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import HeadProject, Project
    from featurize.arrays import Floats
    from featurize.data.index import DatasetIndex
    from featurize.run.job import FeaturizeJob, FeaturizeSummary
    from featurize.run.plan import Choose
    from featurize.store import FeatureStore
    from headtrain.head.checkpoint import TrainedHead


def featurize(
    chosen: Chosen,
    split: str,
    limit_problems: int | None = None,
    pairs: int | None = None,
    nproc_per_node: int | None = None,
    plan_only: bool = False,
    repair: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    debug: bool = False,
) -> None:
    """Run the frozen backbone once and store the features of every sample of a split."""
    if "RANK" in os.environ:
        _refuse_options_of_torchrun(nproc_per_node, overwrite)
    project = chosen.with_pairs(pairs).project()
    if plan_only or debug:
        from configs.config import notes

        for line in notes(project.settings):
            console().print(f"note: {line}", style="dim")
    selected, choose = (None, None) if pairs is None else project.select_pairs(split)
    job = project.featurize_job(
        split,
        limit_problems=limit_problems,
        repair=repair,
        command=command_to_repeat(),
        selection_settings=selected,
    )
    title = f"plan: featurize {split}"
    if not plan_only:
        run_shown(
            job, title, choose=choose, workers=nproc_per_node, overwrite=overwrite, strict=strict
        )
        return
    from featurize.run.plan import plan_featurize

    plan = plan_featurize(job, choose)
    plan.check_samples(strict=strict)
    console().print(rows_table(title, plan.describe()))


def _refuse_options_of_torchrun(nproc_per_node: int | None, overwrite: bool) -> None:
    """Raise ValueError for options that only the process that starts the others can honour."""
    if nproc_per_node is not None:
        raise ValueError(
            f"--nproc-per-node {nproc_per_node} comes after the command, but torchrun starts the"
            " processes: give it to torchrun, before -m cli"
        )
    if overwrite:
        raise ValueError(
            "--overwrite is not for torchrun, whose restarts would delete finished units; delete"
            " the store's folder before"
        )


def import_features(
    chosen: Chosen,
    states: Path,
    split: str,
    layers: list[int] | None = None,
    skip_missing: bool = False,
    repair: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> None:
    """Make a feature store from hidden states that vLLM wrote (extract_hidden_states)."""
    refuse_torchrun("import-features")
    from featurize.run.importing import import_features

    job = chosen.project().featurize_job(split, repair=repair, command=command_to_repeat())
    _shown(
        f"plan: import {split} from {states}",
        lambda progress: import_features(
            job,
            states,
            progress,
            layers=layers or None,
            skips_missing=skip_missing,
            overwrite=overwrite,
            strict=strict,
        ),
        command="import-features",
    )


def merge_features(
    chosen: Chosen,
    stores: list[str],
    split: str,
    repair: bool = False,
    overwrite: bool = False,
) -> None:
    """Join the feature stores of several datasets into one, without running the backbone."""
    refuse_torchrun("merge-features")
    from featurize.run.merging import merge_features
    from featurize.store import FeatureStore

    job = chosen.project().featurize_job(split, repair=repair, command=command_to_repeat())
    opened = [FeatureStore.open(path, job.cache_dir) for path in stores]
    with CountProgress("merge", "units") as progress:
        summary = merge_features(job, opened, progress, overwrite=overwrite)
    _show_features(summary, "merge-features")


def inspect(store: str, verify: bool = False) -> None:
    """Show what a feature store holds, how it was made, and whether it is intact."""
    from featurize.store.inspect import TENSOR_COLUMNS, inspect_store

    with CountProgress("inspect", "units") as count:
        report = inspect_store(store, verify=verify, progress=count)
    console().print(rows_table(f"feature store {report.path}", report.describe()))
    if report.tensors:
        console().print(columns_table("tensors", TENSOR_COLUMNS, report.describe_tensors()))
    report.check()


def command_to_repeat(arguments: Sequence[str] | None = None) -> str:
    """This process's command without the options that start again or stop early.

    It is kept with the store, so the address of a tracking server, which may hold a password, is
    left out.
    """
    once = ("--overwrite", "--plan-only", "--repair", "--debug")
    words = [word for word in (arguments or sys.argv[1:]) if word not in once]
    for place in reversed([at for at, word in enumerate(words) if word.startswith("mlflow.")]):
        del words[place - 1 : place + 1]
    return shlex.join(["critic", *words])


def run_shown(job: "FeaturizeJob", title: str, **options: Any) -> None:
    """Run a featurize job, and show its plan, progress and summary; options as `run_job`."""
    from featurize.run.launch import run_job

    _shown(title, lambda progress: run_job(job, progress, **options))


def _shown(
    title: str,
    run: "Callable[[FeaturizeProgress], FeaturizeSummary]",
    command: str = "featurize",
) -> None:
    with FeaturizeProgress(title) as progress:
        summary = run(progress)
        progress.finish(summary.counts.get("unique_tokens", 0))
    _show_features(summary, command)


def _show_features(summary: "FeaturizeSummary", command: str) -> None:
    """What a job computed, or that the command had nothing to do."""
    if summary.was_up_to_date:
        show_up_to_date(command, summary.store_dir)
    elif summary.counts:
        console().print(rows_table(f"features in {summary.store_dir}", summary.describe()))


def featurize_file(opened: "HeadProject", index: "DatasetIndex", *, repair: bool) -> "FeatureStore":
    """Compute features of a file that is not a split, as the head needs them."""
    from headtrain.scoring.provenance import open_file_store, plan_file

    settings, layout = opened.project.settings, opened.project.layout
    job = plan_file(
        opened.head,
        index,
        places=opened.places,
        featurize=settings.featurize,
        runtime=settings.runtime,
        distributed=settings.distributed,
        store_of=layout.file_features_dir,
        cache_dir=layout.cache_dir,
        repair=repair,
        command=command_to_repeat(),
    )
    names = ", ".join(source.name for source in index.sources[:3])
    run_shown(job, f"plan: featurize {names}")
    return open_file_store(job, index)


def score_random_backbone(
    project: "Project", trained: "TrainedHead", stores: "Mapping[str, FeatureStore]"
) -> "dict[str, dict[str, Floats]]":
    """Score the samples of stores by a head on a random backbone, made now or found.

    Returns its scores by split and name, [samples] of each store.
    """
    from headtrain.evaluation.random_backbone import RandomBackbone

    def featurize(job: "FeaturizeJob", choose: "Choose") -> None:
        run_shown(job, f"plan: featurize {job.split} with a random backbone", choose=choose)

    with CountProgress("random backbone", "steps") as count:
        baseline = RandomBackbone(
            job_of=lambda split: project.featurize_job(
                split, command=f"critic eval --split {split} --baseline random-backbone"
            ),
            featurize=featurize,
            open_store=project.open_store,
            features_dir=project.layout.random_features_dir,
            checkpoint_dir=project.layout.random_checkpoint_dir,
            progress=count,
        )
        found = baseline.score(trained, stores)
    state = UP_TO_DATE if found.was_up_to_date else "trained"
    console().print(f"head on a random backbone {state}: {found.head}")
    return found.scores
