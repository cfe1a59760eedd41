"""Run a featurize job: in this process, in workers it starts, or as a rank of torchrun."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.errors import CriticError
from featurize.io.files import available_memory, sole_writer, write_json
from featurize.io.interrupts import Terminated
from featurize.io.remote import open_folder
from featurize.run.job import (
    FeaturizeJob,
    FeaturizeSummary,
    Reporter,
    find_finished,
    remember_finished,
)
from featurize.run.worker import Failure, Relay
from featurize.store.manifest import Unit, read_manifest

if TYPE_CHECKING:
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from featurize.run.plan import Choose, FeaturizePlan
    from featurize.store.writer import UnitFeatures

JOB_FILE = "job.json"
"""In the folder of the store while workers run."""


class WorkerMistake(CriticError):
    """A worker ended by a mistake in its input."""

    details: Sequence[str] = ()


class WorkerError(RuntimeError):
    """A worker ended by a fault of the program."""

    details: Sequence[str] = ()


def run_job(
    job: FeaturizeJob,
    reporter: Reporter,
    *,
    choose: "Choose | None" = None,
    workers: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> FeaturizeSummary:
    """Plan a job, compute what is missing and return when the store is finished.

    Starts a process per core or GPU of this machine if that is more than one. Started by torchrun,
    it is one of torchrun's ranks instead: the first one plans, the others take its job.

    Args:
        job: what to featurize, and where to.
        reporter: follows the run; called on the first rank only.
        choose: selects samples of the dataset; None: all of them.
        workers: processes on this machine; None: `featurize.workers`, else chosen.
        overwrite: delete the store that is there, once the plan is known to be good.
        strict: refuse problem ids that several statements share.

    Raises:
        ValueError: bad data, an unreadable backbone, contradicting settings.
        WorkerError: a worker failed in a way that is a fault of the program.
    """
    if "RANK" in os.environ:
        return _run_as_rank(job, reporter, choose, strict=strict)
    is_known = choose is None or job.selection_settings is not None
    if is_known and not (overwrite or strict) and (manifest := find_finished(job)) is not None:
        return FeaturizeSummary.of_finished(job, manifest)
    reporter.note(f"planning: features in {job.store_dir}")
    from featurize.run.plan import plan_featurize

    plan = plan_featurize(job, choose)
    plan.check_samples(strict=strict)
    if overwrite:
        remove_store(job)
    if (manifest := plan.finished) is not None:
        summary = FeaturizeSummary.of_finished(job, manifest)
    else:
        reporter.planned(plan)
        summary = _compute(plan, _choose_workers(plan, workers), reporter)
    if is_known:
        remember_finished(plan)
    return summary


def remove_store(job: FeaturizeJob) -> None:
    """Delete a store, manifest first, so that no reader finds half of one.

    Raises:
        FeatureStoreError: a run is writing it.
    """
    folder = open_folder(job.store_dir)
    with sole_writer(job.writing_dir):
        for name in ("manifest.json", "plan.json", "units"):
            folder.remove(name)


def write_store(
    job: FeaturizeJob,
    store_plan: Mapping[str, Any],
    make: "Callable[[int], tuple[UnitFeatures, Mapping[str, int]]]",
    total: Callable[[Iterable[Unit]], dict[str, int]],
    on_unit: Callable[[int, Unit], None],
) -> FeaturizeSummary:
    """Write the units of a store that are missing, in this process.

    Args:
        job: where the store goes.
        store_plan: as `StoreWriter` takes it.
        make: gets the number of a unit; returns what it has, and its counts.
        total: gets all units; returns the counts of the store.
        on_unit: gets the number of units that are done, and the last of them.

    Raises:
        FeatureStoreError: another run writes there, or the folder has another store.
    """
    from featurize.store.writer import open_writer

    started = time.monotonic()
    with sole_writer(job.writing_dir):
        writer = open_writer(job.store_dir, store_plan, job.writing_dir, is_thorough=job.repair)
        pending = writer.begin()
        num_kept = store_plan["num_units"] - len(pending)
        for done, number in enumerate(pending, num_kept + 1):
            on_unit(done, writer.write_unit(number, *make(number)))
        units = writer.finished_units()
        manifest = writer.finish(total(units.values()), units)
    return FeaturizeSummary(
        store_dir=job.store_dir,
        counts=manifest.counts,
        num_resumed_units=num_kept,
        seconds=time.monotonic() - started,
    )


def choose_workers(
    device: "torch.device",
    asked: int | None,
    num_units: int,
    memory: int,
    group: int | None,
) -> int:
    """The number of processes for this machine: one per GPU, or per core as memory allows.

    On a CPU several processes of one thread beat one process of several threads, and keep their
    speed when the machine is shared (docs/experiments.md has the numbers).

    Args:
        device: what the backbone runs on.
        asked: --nproc-per-node or `featurize.workers`; None chooses.
        num_units: more groups of processes than units of work would be idle.
        memory: bytes one backbone needs, on the CPU.
        group: processes that hold one backbone together; None: all of them.
    """
    import torch

    is_chosen = asked is None
    if asked is None:
        if device.type == "cuda":
            asked = torch.cuda.device_count()
        else:
            cores = len(os.sched_getaffinity(0))
            room = available_memory() // max(memory, 1)  # backbones
            asked = cores if group is None else max(min(cores, room * group), group)
    if device.type == "cuda":
        asked = min(asked, torch.cuda.device_count())
    if group is None:
        return asked
    if is_chosen and asked > group:
        asked -= asked % group
    return max(1, min(asked, num_units * group))


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
    plan_sharing(job.distributed, workers, workers)  # refuses numbers that do not form groups
    return workers


def _compute(plan: "FeaturizePlan", num_workers: int, reporter: Reporter) -> FeaturizeSummary:
    with sole_writer(plan.job.writing_dir):
        if num_workers > 1:
            return _run_workers(plan, num_workers, reporter)
        from featurize.run.compute import compute
        from featurize.run.ranks import Ranks

        return compute(plan, Ranks(), reporter)


def _run_as_rank(
    job: FeaturizeJob, reporter: Reporter, choose: "Choose | None", *, strict: bool
) -> FeaturizeSummary:
    """This process's part of a run that torchrun started."""
    from featurize.run.compute import compute
    from featurize.run.plan import plan_featurize
    from featurize.run.ranks import Ranks

    ranks = Ranks()
    if not ranks.is_first:
        shared = ranks.get_value("job")
        if shared["is_finished"]:
            return FeaturizeSummary(
                store_dir=job.store_dir, counts={}, num_resumed_units=0, seconds=0.0
            )
        plan = replan(FeaturizeJob.from_dict(shared["job"]), shared["selection"])
        return compute(plan, ranks, reporter)
    plan = plan_featurize(job, choose)
    plan.check_samples(strict=strict)
    manifest = plan.finished
    ranks.share("job", lambda: {**_to_share(plan), "is_finished": manifest is not None})
    if manifest is not None:
        return FeaturizeSummary.of_finished(job, manifest)
    reporter.planned(plan)
    with sole_writer(job.writing_dir):
        return compute(plan, ranks, reporter)


def _to_share(plan: "FeaturizePlan") -> dict[str, object]:
    return {
        "job": plan.job.to_dict(),
        "selection": plan.selection and plan.selection.to_dict(),
    }


def replan(job: FeaturizeJob, selection: "dict[str, object] | None") -> "FeaturizePlan":
    """The plan of a job that another process has planned; its files are in the cache."""
    from featurize.run.plan import Selection, plan_featurize

    chosen = None if selection is None else Selection.from_dict(selection)
    return plan_featurize(job, None if chosen is None else lambda *_: chosen)


def _run_workers(plan: "FeaturizePlan", num_workers: int, reporter: Reporter) -> FeaturizeSummary:
    """Compute a plan in several processes of this machine, which read it from a job file."""
    started = time.monotonic()
    path = plan.job.writing_dir / JOB_FILE
    max_restarts = plan.job.distributed.max_restarts
    with tempfile.TemporaryDirectory(prefix="critic-") as name:
        folder = Path(name)
        relay = Relay(folder, reporter, max_restarts)
        job = {
            **_to_share(plan),
            "fingerprint": plan.fingerprint,
            "launcher": os.getpid(),
            "messages": name,
            "log_level": logging.getLogger("featurize").getEffectiveLevel(),
        }
        write_json(path, job)
        try:
            with relay:
                ended = _start_workers(num_workers, path, folder, max_restarts)
        finally:
            path.unlink(missing_ok=True)
        if ended is not None:
            raise _to_error(ended, relay.failures)
    manifest = read_manifest(plan.job.store_dir)
    assert manifest is not None, "the first worker writes it"
    return FeaturizeSummary(
        store_dir=plan.job.store_dir,
        counts=manifest.counts,
        num_resumed_units=relay.num_resumed_units,
        seconds=time.monotonic() - started,
    )


def _start_workers(
    num_workers: int, job: Path, folder: Path, max_restarts: int
) -> "ProcessFailure | None":
    """Run the worker module in several processes to their end; returns the first that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C; Terminated: SIGTERM. The workers have ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_workers,
        run_id=f"critic-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),  # the default folder is never removed
    )
    words = ("-u", "-P", "-m", "featurize.run.worker", str(job.absolute()))
    try:
        with _worker_environment():
            elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        return error.get_first_failure()[1]
    except SignalException as error:
        raise (KeyboardInterrupt if error.sigval == signal.SIGINT else Terminated) from error
    return None


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Variables that workers inherit; the engine's own reports would repeat theirs."""
    home = str(Path(__file__).resolve().parents[2])
    before = dict(os.environ)
    # NOTE: with -P this keeps the user's folder, which may hold a featurize/, off the path.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, before.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable(logging.ERROR)  # each of the engine's loggers has a level of its own
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def _to_error(ended: "ProcessFailure", failures: Sequence[Failure]) -> Exception:
    """The error to raise for a worker that failed."""
    if ended.exitcode < 0:
        name = signal.Signals(-ended.exitcode).name
        return ChildProcessError(
            f"worker {ended.local_rank} was killed ({name}; memory may have run out); run the same"
            " command again to resume, with a smaller featurize.workers if need be"
        )
    if not failures:
        return WorkerError(f"worker {ended.local_rank} ended with exit code {ended.exitcode}")
    last = max(failure.attempt for failure in failures)
    failure = next(failure for failure in failures if failure.attempt == last)
    error = (WorkerMistake if failure.is_mistake else WorkerError)(failure.message)
    error.details = failure.details
    error.add_note(f"in the worker:\n{failure.traceback}")
    return error
