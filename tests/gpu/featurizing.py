"""Section C: the engine alone, by size of backbone, token budget, forward and likelihood."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from featurize.model.agreement import compile_if_it_agrees
from featurize.model.backbone import Backbone
from featurize.model.blocks import why_not_compiled
from featurize.model.device import choose_token_budget
from featurize.model.engine import Engine
from featurize.model.packing import PromptGroup
from tests.gpu.machine import Peaks
from tests.gpu.models import count_work, features_of, load_drawn, on_meta, write_config
from tests.gpu.report import Report, Row, Skip
from tests.gpu.timing import free_memory, kernels_of, peak_bytes, seconds_of
from tests.support.workloads import make_workload

TABLE = "C. Featurizing"
NEAR_BEST = 0.97
"""The budget to set is the smallest with this share of the best rate."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured; the sizes are in the order of their importance."""

    shapes: Sequence[str]
    budgets: Sequence[int]
    packs: int  # full ones of each run
    candidates: int
    prompts: tuple[int, int]


FULL = Plan(
    shapes=("7B", "135M", "1B"),
    budgets=(8192, 16384, 32768, 65536),
    packs=2,
    candidates=8,
    prompts=(150, 600),
)
TINY = Plan(shapes=("tiny",), budgets=(512, 1024), packs=2, candidates=3, prompts=(15, 60))


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The best packed run of a size with the likelihood, for the sections that follow."""

    budget: int
    tokens_per_second: float
    gpu_us_a_token: float | None  # None on a CPU


def measure_featurizing(
    report: Report, device: torch.device, peaks: Peaks, *, is_tiny: bool
) -> dict[str, Speed]:
    """Measure all sizes; returns the best run of each."""
    plan, best = (TINY if is_tiny else FULL), {}
    for shape in plan.shapes:
        with tempfile.TemporaryDirectory() as folder:
            backbone = load_drawn(write_config(Path(folder), shape), device, torch.bfloat16)
            rows = _measure_shape(report, shape, backbone, plan, peaks)
            if rows:
                best[shape] = choose_budget(report, shape, backbone, rows)
                measure_compiled(report, shape, backbone, plan, peaks, best[shape])
            del backbone
        free_memory(device)
    return best


def _measure_shape(
    report: Report, shape: str, backbone: Backbone, plan: Plan, peaks: Peaks
) -> list[Row]:
    found = []
    for forward, likelihood, budget in product(("packed", "padded"), (True, False), plan.budgets):

        def run(forward: Any = forward, budget: int = budget, likelihood: bool = likelihood) -> Row:
            return measure_case(backbone, plan, peaks, forward, budget, likelihood=likelihood)

        known = {"backbone": shape, "forward": forward, "budget": budget}
        row = report.measure(TABLE, run, **known, likelihood=likelihood)
        if row is not None and forward == "packed":
            found.append(row)
    _share_of_logits(found)
    return [row for row in found if row["likelihood"]]


def _share_of_logits(rows: Sequence[Row]) -> None:
    """Add the part of the kernels' time that the likelihood takes, where it was measured."""
    time = {(row["budget"], row["likelihood"]): row["GPU ms a pack"] for row in rows}
    for row in rows:
        without = time.get((row["budget"], False))
        if row["likelihood"] and without is not None and row["GPU ms a pack"]:
            row["logits %"] = round(100 * (1 - without / row["GPU ms a pack"]), 1)


def measure_case(
    backbone: Backbone, plan: Plan, peaks: Peaks, forward: Any, budget: int, *, likelihood: bool
) -> Row:
    """One row: rates of a run, its kernels, and the share of each kind."""
    device = backbone.device
    groups = _groups(backbone, plan, budget)
    rows = sum(len(group.rows) for group in groups)
    spec = features_of(backbone, likelihood=likelihood)
    engine = Engine(backbone, spec, forward, budget)
    # A job prepares its passes in another thread, so that they are no part of the engine's time.
    preparing = seconds_of(lambda: engine.prepare(groups, rows), device, repeats=2)
    prepared = engine.prepare(groups, rows)

    def run() -> None:
        list(engine.stream([prepared]))

    run()
    free_memory(device)
    seconds = seconds_of(run, device)
    peak = peak_bytes(device)
    kernels = kernels_of(run, device)
    packs = len(prepared.passes)
    tokens = sum(group.num_tokens for group in groups)
    work = count_work(backbone, groups, likelihood=likelihood).total
    is_cuda = device.type == "cuda"
    return {
        "unique tokens/s": tokens / seconds,
        "samples/s": rows / seconds,
        "packs": packs,
        "ms a pack": 1e3 * seconds / packs,
        "GPU ms a pack": 1e3 * kernels.busy_seconds / packs if is_cuda else None,
        "host ms a pack": 1e3 * preparing / packs,
        "GPU busy %": 100 * kernels.busy_seconds / seconds if is_cuda else None,
        "MFU datasheet %": 100 * work / seconds / peaks.datasheet if peaks.datasheet else None,
        "MFU of GEMM %": 100 * work / seconds / peaks.measured,
        "kernels a pack": round(kernels.number / packs),
        "peak GB": peak / 1e9 if peak is not None else None,
        **{f"{kind} %": round(100 * share, 1) for kind, share in kernels.shares.items()},
        "GPU us a token": 1e6 * kernels.busy_seconds / tokens if is_cuda else None,
    }


def measure_compiled(
    report: Report, shape: str, backbone: Backbone, plan: Plan, peaks: Peaks, plain: Speed
) -> None:
    """Measure `featurize.compile` at the best budget, last of a backbone: its blocks stay so."""

    def run() -> Row:
        refusal = why_not_compiled(backbone.device, is_shared=False, is_quantized=False)
        if refusal is not None:
            raise Skip(refusal)
        spec, groups = features_of(backbone, likelihood=True), _groups(backbone, plan, 2048)
        what = compile_if_it_agrees(backbone, spec, "packed", groups, torch.bfloat16)
        row = measure_case(backbone, plan, peaks, "packed", plain.budget, likelihood=True)
        names = ("unique tokens/s", "MFU of GEMM %", "GPU busy %", "kernels a pack", "peak GB")
        faster = row["unique tokens/s"] / plain.tokens_per_second
        numbers = {name: row[name] for name in names}
        return {"budget": plain.budget, **numbers, "times plain": faster, "what": what}

    report.measure("C. Compiled blocks", run, backbone=shape)


def choose_budget(report: Report, shape: str, backbone: Backbone, rows: Sequence[Row]) -> Speed:
    """The smallest budget that is nearly as fast as the best; adds it to its table."""
    most = max(row["unique tokens/s"] for row in rows)
    row = min(
        (row for row in rows if row["unique tokens/s"] >= NEAR_BEST * most),
        key=lambda row: row["budget"],
    )
    size = sum(weight.numel() for weight in on_meta(backbone.decoder.config).parameters())
    chosen = choose_token_budget(None, backbone.device, size, max_length=2048).tokens
    by = {"budget": row["budget"], "unique tokens/s": row["unique tokens/s"], "null is": chosen}
    report.measure("C. Token budget to set", lambda: by, backbone=shape)
    return Speed(
        budget=row["budget"],
        tokens_per_second=row["unique tokens/s"],
        gpu_us_a_token=row["GPU us a token"],
    )


def _groups(backbone: Backbone, plan: Plan, budget: int) -> list[PromptGroup]:
    """Problems for about this number of full packs."""
    each = sum(plan.prompts) // 2 + plan.candidates * 225
    problems = max(2, plan.packs * budget // each)
    vocab = backbone.decoder.config.vocab_size
    return make_workload(problems, plan.candidates, plan.prompts, vocab)
