"""Section B1: attention over packs against dense attention in float64."""

import functools
from itertools import product
from typing import Any

import torch
from torch import Tensor

from featurize.model.attention import shared_prompt_attention, why_no_kernel
from featurize.model.batch import make_pack
from featurize.model.packing import PromptGroup
from tests.gpu.report import Found, Report, Skip
from tests.gpu.timing import attention_calls, kernels_of
from tests.support.plain_features import make_groups

KERNEL_LIMIT = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest relative error of a head's output: 16 bits round weights, values and the result."""

LAYOUTS: dict[str, list[tuple[int, list[int]]]] = {
    "mixed": [(37, [5, 130, 1]), (1, [1, 9]), (150, [64])],
    "one token each": [(1, [1]), (1, [1, 1])],
    "one group": [(90, [33, 2, 71])],
    "200 outputs": [(20, [3] * 200)],
    "tokens = heads": [(5, [3, 6])],
}
"""Prompts with their outputs, in tokens; the last has as many output tokens as 9 heads."""


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
        groups = make_groups(lengths)
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
