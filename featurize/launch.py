"""Starts one process a core or GPU on this machine, through torch.distributed.run's own engine."""

import logging
import os
import sys
from collections.abc import Sequence

import torch

LAUNCHED = "CRITIC_LAUNCHED"
"""Set in the processes started here: their parent has shown the plan already."""


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
            room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
            asked = min(len(os.sched_getaffinity(0)), room // max(memory, 1))
    return max(1, min(asked, num_units))


def launch(num_processes: int, arguments: Sequence[str], *, max_restarts: int = 0) -> int:
    """Runs `python -m cli <arguments>` in several processes; returns their exit code.

    What fails is reported by the process it fails in; the engine's own report would repeat it.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[LAUNCHED] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=f"critic-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "cli", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return int(failure.exitcode) if failure.exitcode > 0 else 128 - int(failure.exitcode)
    finally:
        os.environ.pop(LAUNCHED, None)
    return 0
