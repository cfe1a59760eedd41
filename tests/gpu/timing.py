"""Times of a device: wall seconds, and the kernels that a run starts, by kind."""

import gc
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "pooling": ("segment_reduce", "segmented"),
    "copies": ("memcpy", "memset", "copy", "catarray", "aten::cat", "index", "gather"),
    "GEMM": (
        *("gemm", "gemv", "cutlass", "nvjet", "xmma", "cublas", "splitk"),
        *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "linear_pointwise"),
    ),
}
"""Kinds by parts of a kernel's name, the first that fits; all else is elementwise."""

OTHER = "elementwise"


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels of a run; on a CPU its operators."""

    number: int
    busy_seconds: float
    """Time in which at least one ran."""
    shares: dict[str, float]
    """Share of each kind in the sum of their times."""
    names: tuple[str, ...]
    """The different names, by the time they take."""

    def of_kind(self, kind: str) -> list[str]:
        """Short names of the kernels of a kind."""
        fits = (re.split(r"[<(]", name)[0][:80] for name in self.names if kind_of(name) == kind)
        return list(dict.fromkeys(fits))


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """The least wall seconds of several runs, until the device has finished."""
    least = float("inf")
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        least = min(least, time.perf_counter() - started)
    return least


def kernels_of(run: Callable[[], object], device: torch.device) -> Kernels:
    """Profile a run. Profiling slows the host down, but not the kernels."""
    is_cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    wait(device)
    with profile(activities=[activity]) as found:
        run()
        wait(device)
    if not is_cuda:
        averages = found.key_averages()
        times = Counter({event.key: event.self_cpu_time_total / 1e6 for event in averages})
        return _summed(times, sum(event.count for event in averages), sum(times.values()))
    spans, times, number = [], Counter[str](), 0
    for event in found.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        number += 1
        spans.append((event.time_range.start, event.time_range.end))
        times[event.name] += (event.time_range.end - event.time_range.start) / 1e6
    return _summed(times, number, union_length(spans) / 1e6)


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def kind_of(name: str) -> str:
    """The kind of a kernel by its name."""
    lower = name.lower()
    fits = (kind for kind, parts in _KINDS.items() if any(part in lower for part in parts))
    return next(fits, OTHER)


class _AttentionNames(TorchDispatchMode):
    """Collects the names of attention operators."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "attention" in str(function) or "attn" in str(function):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def attention_calls(run: Callable[[], object]) -> Counter[str]:
    """The attention operators that a run calls, with their numbers."""
    with _AttentionNames() as names:
        run()
    return names.found


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to, so that a peak is of what comes next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes allocated since `free_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _summed(times: Counter[str], number: int, busy: float) -> Kernels:
    kinds = Counter[str]()
    for name, seconds in times.items():
        kinds[kind_of(name)] += seconds
    total = sum(kinds.values()) or 1.0
    shares = {kind: kinds[kind] / total for kind in (*_KINDS, OTHER)}
    names = tuple(name for name, _ in times.most_common())
    return Kernels(number=number, busy_seconds=busy, shares=shares, names=names)
