"""What benchmarks share: fresh processes, time and memory of some work, tables in Markdown."""

import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a piece of work took; the time of the processor counts where others use the machine."""

    found: Any
    """What it returned."""
    seconds: float
    cpu_seconds: float
    """Of this process and of those it has started."""
    peak_bytes: int
    """Of this process since it began, and at most of `num_children` others at once."""


def measure(work: Callable[[], Any], num_children: int = 0) -> Measured:
    """Do it, and take its time and memory."""
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    found = work()
    # NOTE: of children the system keeps the largest peak, not their sum.
    of_child = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Measured(
        found=found,
        seconds=time.perf_counter() - started,
        cpu_seconds=_cpu_seconds() - cpu_started,
        peak_bytes=peak_bytes() + num_children * of_child,
    )


def seconds_of(work: Callable[[], object]) -> float:
    return measure(work).seconds


def peak_bytes() -> int:
    """Most memory of this process; not `ru_maxrss`, which it inherits from the one before it."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return 1024 * int(peak[1])


def in_fresh_process(call: Callable[..., Any], *arguments: object, **options: object) -> Any:
    """Call a function of a module where nothing has used memory or time before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments, **options).result()


def print_header(*columns: str) -> None:
    """Begin a table; all columns but the first are numbers."""
    print_row(*columns)
    print_row("---", *["---:"] * (len(columns) - 1))


def print_row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
