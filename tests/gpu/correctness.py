"""Section B, first part: attention, forwards, packs, waits, memory and overflow."""

import functools
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.model.attention import shared_prompt_attention, why_no_kernel
from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack
from featurize.model.engine import TOLERANCE, Engine, choose_forward, relative_error
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import PromptGroup, plan_packs
from featurize.run.launch import run_job
from tests.gpu.jobs import Notes, make_job
from tests.gpu.models import drawn_weights, features_of, load_drawn, write_config
from tests.gpu.report import Found, Report, Skip
from tests.gpu.timing import attention_calls, free_memory, kernels_of
from tests.support.workloads import make_workload

KERNEL_LIMIT = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest relative error of a head's output: 16 bits round weights, values and the result."""

FLOAT32_LIMIT = 0.15
"""Largest relative difference of features in 16 bits from those in 32, through all layers."""

LAYOUTS: dict[str, list[tuple[int, list[int]]]] = {
    "mixed": [(37, [5, 130, 1]), (1, [1, 9]), (150, [64])],
    "one token each": [(1, [1]), (1, [1, 1])],
    "one group": [(90, [33, 2, 71])],
    "200 outputs": [(20, [3] * 200)],
    "tokens = heads": [(5, [3, 6])],
}
"""Prompts with their outputs, in tokens; the last has as many output tokens as 9 heads."""


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


def check_kernel(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """B1: attention over packs against dense attention in float64."""
    report.check("B1 packs run through varlen_attn", lambda: uses_kernel(device))
    heads, widths = [(32, 32), (32, 8), (9, 3)], [64, 80, 100, 128, 256]
    if is_tiny:
        heads, widths = [(4, 4), (9, 3)], [64, 100]
    for dtype, (number, kv), width in product(KERNEL_LIMIT, heads, widths):
        for window in (None, 64):
            kind = str(dtype).removeprefix("torch.")
            name = f"B1 attention {kind}, heads {number}/{kv}, width {width}, window {window}"

            def run(sizes: Any = (dtype, number, kv, width, window)) -> Found:
                return compare_attention(device, *sizes)

            report.check(name, run)


def uses_kernel(device: torch.device) -> Found:
    """Where the device has the variable-length kernel, attention calls it."""
    refusal = why_no_kernel(device, torch.bfloat16, 64, 64)
    if refusal is not None:
        raise Skip(refusal)
    path = compare_attention(device, torch.bfloat16, 8, 2, 64, None).path
    if "varlen" not in path:
        raise AssertionError(f"attention ran through {path}")
    return Found(path=path)


def compare_attention(
    device: torch.device, dtype: torch.dtype, heads: int, kv: int, width: int, window: int | None
) -> Found:
    """The largest error over all layouts, and the operators that ran."""
    worst, worst_layout, paths = 0.0, "", set[str]()
    for name, lengths in LAYOUTS.items():
        groups = groups_of(lengths)
        layout = make_pack(groups, device).layout
        assert layout is not None
        query, key, value = draw_tensors(groups, device, dtype, (heads, kv, kv), width)
        attend = functools.partial(
            shared_prompt_attention,
            *(torch.nn.Module(), query, key, value, None),
            layout=layout,
            sliding_window=window,
        )
        paths |= attention_calls(attend).keys() or {"math"}
        if device.type == "cuda" and name == "mixed":
            paths.update(kernels_of(attend, device).of_kind("attention"))
        error = dense_error(attend()[0][0], query, key, value, groups, window)
        if not error <= worst:
            worst, worst_layout = error, name
    note = f"worst: {worst_layout}"
    return Found(error=worst, limit=KERNEL_LIMIT[dtype], path=", ".join(sorted(paths)), note=note)


def draw_tensors(
    groups: list[PromptGroup],
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, ...],
    width: int,
) -> list[Tensor]:
    """Draw a tensor [1, heads, tokens, width] for each number of heads."""
    tokens = sum(group.num_tokens for group in groups)
    generator = torch.Generator(device).manual_seed(1)
    return [
        (2 * torch.randn(1, number, tokens, width, generator=generator, device=device)).to(dtype)
        for number in heads
    ]


def groups_of(lengths: list[tuple[int, list[int]]]) -> list[PromptGroup]:
    """Groups of these numbers of tokens."""
    starts = [
        sum(len(outputs) for _, outputs in lengths[:number]) for number in range(len(lengths))
    ]
    return [
        PromptGroup(
            prompt=tuple(range(prompt)),
            outputs=tuple(tuple(range(length)) for length in outputs),
            rows=tuple(range(start, start + len(outputs))),
        )
        for start, (prompt, outputs) in zip(starts, lengths, strict=False)
    ]


def dense_error(
    found: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: list[PromptGroup],
    window: int | None,
) -> float:
    """Largest relative error of [tokens, heads, width] against softmax in float64, sequence by
    sequence."""
    q, k, v = (tensor[0].double() for tensor in (query, key, value))  # [heads, tokens, width]
    k, v = (tensor.repeat_interleave(len(q) // len(k), dim=0) for tensor in (k, v))
    start, output = 0, sum(len(group.prompt) for group in groups)
    errors = []
    for group in groups:
        prompt = torch.arange(start, start + len(group.prompt), device=q.device)
        start += len(prompt)
        for number, ids in enumerate(group.outputs):
            own = torch.arange(output, output + len(ids), device=q.device)
            output += len(ids)
            places = torch.cat([prompt, own])
            queries = places if number == 0 else own  # a prompt is compared once
            expected = _attend(q, k, v, places, len(queries), window)  # [queries, heads, width]
            difference = (found[queries].double() - expected).norm(dim=-1)
            errors.append((difference / expected.norm(dim=-1).clamp_min(1e-30)).max())
    worst = torch.stack(errors)
    return float(worst.max()) if bool(worst.isfinite().all()) else float("inf")


def _attend(
    q: Tensor, k: Tensor, v: Tensor, places: Tensor, queries: int, window: int | None
) -> Tensor:
    """Causal attention of the last queries of a sequence."""
    scores = q[:, places[-queries:]] @ k[:, places].mT * q.shape[-1] ** -0.5
    positions = torch.arange(len(places), device=q.device)
    distance = positions[-queries:, None] - positions
    is_seen = (distance >= 0) & (distance < (window or len(places) + 1))
    weights = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=-1)
    return (weights @ v[:, places]).transpose(0, 1)


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
        for name, rows in _named(found["packed"]).items():

            def compare(rows: Tensor = rows, name: str = name, other: str = other) -> Found:
                error = relative_error(rows, _named(found[other])[name])
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
        found.append(_named(run_engine(backbone, spec, renumbered, max(size, tokens))))
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


def _named(features: Features) -> dict[str, Tensor]:
    likelihood = {} if features.likelihood is None else {"likelihood": features.likelihood}
    return {**features.tensors, **likelihood}


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
    expected = _named(Engine(backbone, spec, "packed", budget).run(groups, rows))
    before = torch.cuda.memory_allocated(device) if is_cuda else 0
    limited = limited_memory(backbone) if is_cuda else limited_tokens(backbone, budget * 2 // 3)
    engine = Engine(backbone, spec, "packed", budget)
    with limited:
        found = _named(engine.run(groups, rows))
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
