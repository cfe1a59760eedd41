"""Starts one process a core or GPU on this machine, through torch.distributed.run's own engine."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

LAUNCHED = "CRITIC_LAUNCHED"
"""Set in the processes started here to a folder they share; their parent has shown the plan."""


def choose_workers(device: torch.device, asked: int | None, num_units: int, memory: int) -> int:
    """Processes for this machine: a GPU each, or a core each as far as memory goes.

    On a CPU several processes of one thread beat one process of several threads, and keep their
    speed when the machine is shared (docs/experiments.md has the numbers).

    Args:
        device: what the backbone runs on.
        asked: `featurize.workers`; None chooses.
        num_units: there is no use for more processes than units of work.
        memory: bytes one process needs, on the CPU.
    """
    if asked is None:
        if device.type == "cuda":
            asked = torch.cuda.device_count()
        else:
            room = available_memory()
            asked = min(len(os.sched_getaffinity(0)), room // max(memory, 1))
    if device.type == "cuda":
        asked = min(asked, torch.cuda.device_count())
    return max(1, min(asked, num_units))


def available_memory() -> int:
    """Bytes this process may still take: what the machine has left, or its control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (allowed := limit.read_text().strip()).isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, int(allowed) - used)
    return available


def launch(num_processes: int, arguments: Sequence[str], *, max_restarts: int = 0) -> int:
    """Runs `python -m cli <arguments>` in several processes; returns their exit code.

    What fails is reported by the process it fails in; the engine's own report would repeat it.

    Raises:
        ChildProcessError: a process was killed, so that it could not report anything.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # NOTE: -P keeps the user's folder off the path, where a cli.py or configs/ of theirs may lie.
    home = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    logging.disable(logging.ERROR)  # each of the engine's loggers has a level of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="critic-") as folder:
        os.environ[LAUNCHED] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=f"critic-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder),  # its default is never cleared away
        )
        try:
            elastic_launch(config, sys.executable)("-u", "-P", "-m", "cli", *arguments)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return _exit_code(failure.local_rank, failure.exitcode)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            return 128 + int(error.sigval)
        finally:
            os.environ.pop(LAUNCHED, None)
            logging.disable(logging.NOTSET)
    return 0


def claim_report() -> bool:
    """Whether this process is the one to report a failure: the first of those started together."""
    folder = os.environ.get(LAUNCHED)
    if folder is None:
        return True
    try:
        (Path(folder) / "reported").touch(exist_ok=False)
    except OSError:
        return False
    return True


def _exit_code(local_rank: int, code: int) -> int:
    """The exit code of a worker that failed by itself."""
    if code < 0:
        name = signal.Signals(-code).name
        raise ChildProcessError(
            f"worker {local_rank} was killed ({name}; memory may have run out); run the same"
            " command again to go on, with a smaller featurize.workers if need be"
        )
    return code
