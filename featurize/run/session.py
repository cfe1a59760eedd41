"""Featurizing as a command does it: the plan shown, processes started, the store written."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from configs.command import TERMINATED, Terminated
from configs.terminal import console, rows_table
from featurize.run.launch import LAUNCHED, choose_workers, launch

if TYPE_CHECKING:
    from featurize.run.plan import FeaturizeJob, FeaturizePlan
    from featurize.run.selection import Choose


def run_session(
    job: "FeaturizeJob",
    *,
    title: str,
    nproc_per_node: int | None = None,
    plan_only: bool = False,
    overwrite: bool = False,
    choose: "Choose | None" = None,
) -> bool:
    """Plans a job and does it, in this process or in several that run the same command line.

    Whoever calls this first calls `follow_launcher`. Returns whether this process is the one to go
    on with the finished store: of several there is one.

    Raises:
        ValueError: bad data, an unreadable backbone, contradicting settings.
    """
    from transformers.utils.logging import disable_progress_bar

    from configs.progress import TokenProgress
    from featurize.run.extract import remove_store, run_featurize
    from featurize.run.plan import plan_featurize
    from featurize.run.ranks import Ranks

    is_launched = LAUNCHED in os.environ
    is_rank = "RANK" in os.environ
    disable_progress_bar()  # of transformers, which would draw over ours
    ranks = Ranks()
    goes_on = ranks.is_first and not is_launched
    # The first rank plans before the others, who find in the cache what it read and converted.
    if not ranks.is_first and ranks.hear("is_finished"):
        return False
    plan = plan_featurize(job, choose)
    if overwrite and not is_rank and not plan_only:
        remove_store(job)  # after the plan: a mistake found there costs no features
        plan = replace(plan, finished=None)
    if not ranks.is_first:
        plan = replace(plan, finished=None)  # whatever another run may have written meanwhile
    elif ranks.share("is_finished", lambda: plan.finished is not None):
        console().print(f"featurize: up to date, nothing done: {job.store_dir}")
        return goes_on
    if goes_on:
        console().print(rows_table(title, plan.describe()))
    if plan_only:
        return False
    if not is_rank and (workers := _choose_workers(plan, nproc_per_node)) > 1:
        _launch(workers, job.distributed.max_restarts)
        return True
    with TokenProgress(console(), plan.estimated_tokens, is_shown=ranks.is_first) as reporter:
        summary = run_featurize(plan, ranks, reporter)
        reporter.finish(summary.counts.get("unique_tokens", 0))
    if ranks.is_first:
        console().print(rows_table(f"features in {job.store_dir}", summary.describe()))
    return goes_on


def _choose_workers(plan: "FeaturizePlan", asked: int | None) -> int:
    from featurize.model.device import resolve_device
    from featurize.model.sharing import group_size, plan_sharing

    job = plan.job
    workers = choose_workers(
        resolve_device(job.runtime.device),
        asked or job.featurize.workers,
        len(plan.units),
        plan.memory_bytes,
        group_size(job.distributed),
    )
    plan_sharing(job.distributed, workers, workers)  # refuses what makes no whole groups
    return workers


def _launch(workers: int, max_restarts: int) -> None:
    """Runs this command line in several processes.

    Raises:
        Terminated: they were asked to end.
        typer.Exit: one of them failed, and has said why.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--overwrite"]
    code = launch(workers, arguments, max_restarts=max_restarts)
    if code == TERMINATED:
        raise Terminated
    if code:
        raise typer.Exit(code)


def to_repeat(arguments: Sequence[str]) -> str:
    """The command with what makes it go on, rather than start anew or stop early.

    It is kept with the store; the address of a tracking server may hold a password and is not.
    """
    once = ("--overwrite", "--plan-only", "--repair", "--debug")
    words = [word for word in arguments if word not in once]
    for place in reversed([at for at, word in enumerate(words) if word.startswith("mlflow.")]):
        del words[place - 1 : place + 1]
    return shlex.join(["critic", *words])
