"""Where the time of a forward goes, by the profiler's own time of each operator."""

import time
from collections.abc import Callable

import torch

_MOVES = ("cat", "where", "sub", "ge", "arange", "scalar_tensor", "slice", "copy_")


def operator_shares(run: Callable[[], object]) -> tuple[float, dict[str, float]]:
    """Seconds that `run` takes once it is warm, and the share of each kind of work in them."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
    kinds = ("products of weights", "attention", "copies and masks", "elementwise")
    taken = dict.fromkeys(kinds, 0.0)
    for event in profile.key_averages():
        taken[_kind_of(event.key.removeprefix("aten::"))] += event.self_cpu_time_total / 1e6
    taken["outside of operators"] = seconds - sum(taken.values())
    return seconds, {kind: part / seconds for kind, part in taken.items()}


def _kind_of(operator: str) -> str:
    if operator in ("mm", "addmm", "mkldnn::_linear_pointwise"):
        return "products of weights"
    if "attention" in operator:
        return "attention"
    return "copies and masks" if operator in _MOVES else "elementwise"
