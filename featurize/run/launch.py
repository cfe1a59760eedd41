"""Starts one process a core or GPU on this machine, through torch.distributed.run's own engine."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurize.io.memory import available_memory

if TYPE_CHECKING:
    import torch

LAUNCHED = "CRITIC_LAUNCHED"
"""Set in the processes started here to a folder they share; their parent has shown the plan."""

_LAUNCHER = "CRITIC_LAUNCHER"
"""Set in the processes started here to the number of the process that started them."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def choose_workers(
    device: "torch.device",
    asked: int | None,
    num_units: int,
    memory: int,
    group: int | None = 1,
) -> int:
    """Processes for this machine: a GPU each, or a core each as far as memory goes.

    On a CPU several processes of one thread beat one process of several threads, and keep their
    speed when the machine is shared (docs/experiments.md has the numbers).

    Args:
        device: what the backbone runs on.
        asked: --nproc-per-node or `featurize.workers`; None chooses.
        num_units: there is no use for more groups of processes than units of work.
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
    home = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    logging.disable(logging.ERROR)  # each of the engine's loggers has a level of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="critic-") as folder:
        os.environ[LAUNCHED] = folder
        os.environ[_LAUNCHER] = str(os.getpid())
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
            os.environ.pop(_LAUNCHER, None)
            logging.disable(logging.NOTSET)
    return 0


def follow_launcher() -> None:
    """Has the kernel end this process when the one that launched it ends, in whatever way.

    A launcher that was killed cannot end its workers, and one that waits for another worker's word
    would not notice for hours. SIGKILL, because a process that waits within C runs no handler; what
    it was writing is redone by the next run.
    """
    launcher = os.environ.get(_LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(launcher):  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def claim_report() -> bool:
    """Whether this process is the one to report a failure: the first of those started together."""
    folder = os.environ.get(LAUNCHED)
    if folder is None:
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        (Path(folder) / f"reported-{attempt}").touch(exist_ok=False)
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
