"""Sections B1 to B6: attention, forwards, packs, waits, memory and overflow."""

import functools
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.model.agreement import TOLERANCE, choose_forward, relative_error
from featurize.model.backbone import Backbone
from featurize.model.engine import Engine
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import PromptGroup, plan_packs
from featurize.run.launch import run_job
from tests.gpu.jobs import Notes, make_job
from tests.gpu.kernels import check_kernel
from tests.gpu.models import drawn_weights, features_of, load_drawn, write_config
from tests.gpu.report import Found, Report, Skip
from tests.gpu.timing import free_memory
from tests.support.workloads import make_workload

FLOAT32_LIMIT = 0.15
"""Largest relative difference of features in 16 bits from those in 32, through all layers."""


def check_correctness(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Make checks B1 to B6."""
    check_kernel(report, device, is_tiny=is_tiny)
    shape = "tiny" if is_tiny else "135M"
    with tempfile.TemporaryDirectory() as folder:
        place = write_config(Path(folder), shape)
        backbone = load_drawn(place, device, torch.bfloat16)
        exact = load_drawn(place, device, torch.float32)
        report.section(
            "B2", lambda: check_forwards(report, backbone, exact, shape, is_tiny=is_tiny)
        )
        check_runs(report, backbone, is_tiny=is_tiny)
    free_memory(device)
    report.check("B6 an overflow names the sample", lambda: overflow(device))


def check_runs(report: Report, backbone: Backbone, *, is_tiny: bool) -> None:
    """B3 to B5, on one backbone."""
    report.check("B3 one group in packs of any size", lambda: in_any_pack(backbone, is_tiny))
    report.check("B4 waits a pack", lambda: count_waits(backbone))
    report.check("B5 out of memory", lambda: out_of_memory(backbone))


def check_forwards(
    report: Report, backbone: Backbone, exact: Backbone, shape: str, *, is_tiny: bool
) -> None:
    """B2: packed, padded and 32 bits agree on every pooling and on the likelihood."""
    poolings = ("mean", "last", "max", "std")
    spec = features_of(backbone, likelihood=True, poolings=poolings)
    groups = workload(backbone, 2 if is_tiny else 6, is_tiny=is_tiny)
    dtype = torch.bfloat16

    def choice() -> Found:
        chosen = choose_forward(backbone, spec, groups, dtype)
        is_shared = chosen.forward == "packed"
        return Found(error=float(not is_shared), limit=0.0, note=chosen.reason)

    report.check(f"B2 {shape}: auto chooses shared prompts", choice)
    budget = 1024 if is_tiny else 8192
    found = {
        "packed": run_engine(backbone, spec, groups, budget),
        "padded": run_engine(backbone, spec, groups, budget, forward="padded"),
        "float32": run_engine(exact, spec, groups, budget),
    }
    limits = {"padded": TOLERANCE[dtype], "float32": FLOAT32_LIMIT}
    for other in limits:
        for name, rows in found["packed"].named().items():

            def compare(rows: Tensor = rows, name: str = name, other: str = other) -> Found:
                error = relative_error(rows, found[other].named()[name])
                return Found(error=error, limit=limits[other])

            report.check(f"B2 {shape}: {name} packed against {other}", compare)


def workload(backbone: Backbone, problems: int, *, is_tiny: bool) -> list[PromptGroup]:
    """Problems with 8 candidates, or for a CPU with 3 and short prompts."""
    vocab = backbone.decoder.config.vocab_size
    if is_tiny:
        return make_workload(problems, 3, (15, 60), vocab)
    return make_workload(problems, 8, (150, 600), vocab)


def run_engine(
    backbone: Backbone,
    spec: FeatureSpec,
    groups: list[PromptGroup],
    budget: int,
    forward: Any = "packed",
) -> Features:
    """Features of all groups, on the host."""
    rows = sum(len(group.rows) for group in groups)
    return Engine(backbone, spec, forward, budget).run(groups, rows)


def in_any_pack(backbone: Backbone, is_tiny: bool) -> Found:
    """B3: the same group alone with others, in packs of several sizes."""
    sizes = (256, 1024, 2048) if is_tiny else (2048, 8192, 32768)
    spec = features_of(backbone, likelihood=True)
    groups = workload(backbone, max(2, sizes[-1] // 600), is_tiny=is_tiny)
    rows = len(groups[0].rows)
    found = []
    for size in sizes:
        taken, tokens = groups[:1], groups[0].num_tokens
        for group in groups[1:]:
            if tokens + group.num_tokens <= size:
                taken, tokens = [*taken, group], tokens + group.num_tokens
        renumbered = list(_renumbered(taken))
        found.append(run_engine(backbone, spec, renumbered, max(size, tokens)).named())
    errors = [
        relative_error(other[name][:rows], found[0][name][:rows])
        for other in found[1:]
        for name in other
    ]
    return Found(error=max(errors), limit=TOLERANCE[torch.bfloat16], note=f"tokens: {sizes}")


def _renumbered(groups: list[PromptGroup]) -> Iterator[PromptGroup]:
    start = 0
    for group in groups:
        rows = tuple(range(start, start + len(group.outputs)))
        yield PromptGroup(prompt=group.prompt, outputs=group.outputs, rows=rows)
        start += len(rows)


def count_waits(backbone: Backbone) -> Found:
    """B4: times a pack at which the host waits for the device, by file and line."""
    if backbone.device.type != "cuda":
        raise Skip("only CUDA reports waits (torch.cuda.set_sync_debug_mode)")
    groups = workload(backbone, 24, is_tiny=False)
    rows, packs = sum(len(group.rows) for group in groups), len(plan_packs(groups, 8192))
    every = tuple(range(backbone.num_layers + 1))
    found = []
    for layers in ((backbone.num_layers,), every):
        spec = FeatureSpec(layers=layers, poolings=("mean", "std"), likelihood=True)
        engine = Engine(backbone, spec, "packed", 8192)
        engine.run(groups, rows)
        found.append(waits_of(functools.partial(engine.run, groups, rows)))
    worst = max(found, key=Counter.total)
    note = ", ".join(f"{place} x{number}" for place, number in worst.most_common(5))
    return Found(error=worst.total() / packs, limit=1.0, note=note)


def waits_of(run: Callable[[], object]) -> Counter[str]:
    """Places at which a run on CUDA makes the host wait, with their numbers."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in caught
        if "synchroniz" in str(warning.message)
    )


def out_of_memory(backbone: Backbone) -> Found:
    """B5: when memory runs out the budget halves, features agree, and memory comes back."""
    device, is_cuda = backbone.device, backbone.device.type == "cuda"
    spec = features_of(backbone, likelihood=True)
    groups = workload(backbone, 30 if is_cuda else 12, is_tiny=not is_cuda)
    rows = sum(len(group.rows) for group in groups)
    budget = sum(group.num_tokens for group in groups)
    free_memory(device)
    expected = Engine(backbone, spec, "packed", budget).run(groups, rows).named()
    before = torch.cuda.memory_allocated(device) if is_cuda else 0
    limited = limited_memory(backbone) if is_cuda else limited_tokens(backbone, budget * 2 // 3)
    engine = Engine(backbone, spec, "packed", budget)
    with limited:
        found = engine.run(groups, rows).named()
    left = _left_over(device, before)
    if engine.token_budget >= budget:
        raise AssertionError("the budget was not halved, so memory did not run out")
    if left > 0.05:
        raise AssertionError(f"{left:.0%} of the memory of a pack did not come back")
    error = max(relative_error(found[name], expected[name]) for name in expected)
    note = f"budget {budget} -> {engine.token_budget}"
    path = "set_per_process_memory_fraction" if is_cuda else "an error raised by a hook"
    return Found(error=error, limit=TOLERANCE[torch.bfloat16], path=path, note=note)


@contextmanager
def limited_memory(backbone: Backbone) -> Iterator[None]:
    """Leave 60% of what the pack before took."""
    device = backbone.device
    held = torch.cuda.memory_allocated(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    reserved = torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction((reserved + 0.6 * (peak - held)) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def limited_tokens(backbone: Backbone, most: int) -> Iterator[None]:
    """Run out of memory in packs of more tokens, as a device would."""

    def refuse(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        if options["input_ids"].numel() > most:
            raise torch.OutOfMemoryError(f"{options['input_ids'].numel()} tokens")

    handle = backbone.decoder.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _left_over(device: torch.device, before: int) -> float:
    """Share of the memory of a run that is still allocated after it, above `before`."""
    if device.type != "cuda":
        return 0.0
    peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    return max(0.0, (held - before) / max(1, peak - before))


def overflow(device: torch.device) -> Found:
    """B6: features that overflow 16 bits end the job with the name of their sample."""
    with tempfile.TemporaryDirectory() as folder, drawn_weights(embedding_scale=1e6):
        job = make_job(Path(folder), "tiny", device, problems=2, is_tiny=True, dtype="float16")
        try:
            run_job(job, Notes(), workers=1)
        except CriticError as error:
            if re.search(r"of sample 'p\d-\d'", str(error)) is None:
                raise
            return Found(note=str(error))
    raise AssertionError("features that are not finite were stored")
