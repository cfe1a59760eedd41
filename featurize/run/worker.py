"""One worker of a featurize job: `python -m featurize.run.worker JOB`.

The job file says what to do; rank and world size come from torch elastic, which starts the workers.
"""

import ctypes
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from featurize.errors import CriticError
from featurize.io.files import read_json
from featurize.io.interrupts import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    keep_interrupts,
    raises_when_terminated,
)

MISTAKE, FAULT = 2, 1
"""Exit codes: the input is wrong, the program is wrong."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(path: Path) -> int:
    """Do this worker's share of the job in a file; returns the exit code."""
    fields = read_json(path)
    die_with(fields["launcher"])  # before the imports, which take seconds
    keep_interrupts()
    from featurize.run.messages import LogHandler, MessageReporter

    reporter = MessageReporter(Path(fields["messages"]))
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(handlers=[LogHandler(reporter)], level=logging.WARNING)
    logging.getLogger("featurize").setLevel(fields["log_level"])
    try:
        with raises_when_terminated():
            work(fields, reporter)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the last stop: whatever it is, the launcher reports it
        reporter.failed(error)
        return MISTAKE if isinstance(error, (ValueError, OSError)) else FAULT
    return 0


def work(fields: dict[str, Any], reporter: Any) -> None:
    """Compute this rank's share of the units.

    Raises:
        CriticError: the dataset or the backbone has changed since the job was planned.
    """
    from transformers.utils.logging import disable_progress_bar

    from featurize.run.compute import compute
    from featurize.run.job import FeaturizeJob
    from featurize.run.launch import replan
    from featurize.run.ranks import Ranks

    disable_progress_bar()
    plan = replan(FeaturizeJob.from_dict(fields["job"]), fields["selection"])
    if plan.fingerprint != fields["fingerprint"]:
        raise CriticError(
            "the dataset or the backbone has changed since the run was planned; run it again"
        )
    ranks = Ranks()
    summary = compute(plan, ranks, reporter)
    if ranks.is_first:
        reporter.resumed(summary.num_resumed_units)


def die_with(launcher: int) -> None:
    """Have the kernel end this process when the one that started it ends, however it ends.

    A launcher that was killed cannot stop its workers. SIGKILL, because a process that waits in C
    runs no handler; the next run computes the unit it was writing again.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != launcher:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
