"""Prints what kernels reach on one thread, and ways around attention that were tried.

    PYTHONPATH=. python tests/benchmarks/bench_kernels.py

Sizes of SmolLM2-135M: width 576, 9 query heads and 3 key heads of 64, 1,536 in the MLP. The last
table is the share of plain products' speed (see bench_featurize.py) that is left at most when
everything but products and attention costs nothing.
"""

import os
import random
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from torch.nn import functional

from featurize.model.attention import _causal, merge_attention
from tests.benchmarks.measuring import print_header, print_row

TOKENS, WIDTH, MLP, HEADS, KEY_HEADS, HEAD = 4096, 576, 1536, 9, 3, 64
SCALE = HEAD**-0.5
WORKLOADS = ((375, 2), (375, 8), (375, 32), (100, 8), (800, 8))  # prompt tokens, outputs


def milliseconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The least of several times."""
    run()
    least = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - started)
    return 1e3 * least


def compare_products() -> float:
    """Weights one by one against those that share their input side by side; GFLOP/s of a block."""
    x, y = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, MLP)
    of = {rows: torch.randn(rows, WIDTH) for rows in (192, 576, 960, 1536, 3072)}
    down = torch.randn(WIDTH, MLP)

    def all_of(*rows: int) -> float:
        return milliseconds(
            lambda: [functional.linear(x, of[n]) for n in rows] + [functional.linear(y, down)]
        )

    apart, joined = all_of(576, 192, 192, 576, 1536, 1536), all_of(960, 576, 3072)
    billions = 2e-9 * TOKENS * (WIDTH * (576 * 2 + 192 * 2 + 1536 * 2) + MLP * WIDTH)
    speed = 1e3 * billions / apart
    print(f"products of a block, {TOKENS} tokens: {speed:.1f} GFLOP/s")
    print(f"query, key and value in one product, gate and up in one: {apart / joined:.2f}x as fast")
    return speed


def now(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """What the engine does: each output to its prompt and itself, in one masked call."""
    found, at = [], 0
    for key, value in zip(keys[1:], values[1:], strict=True):
        own = q[:, :, at : at + key.shape[2]]
        joined = (torch.cat([keys[0], key], 2), torch.cat([values[0], value], 2))
        found.append(_causal(own, *joined, SCALE, None)[0].transpose(0, 1))
        at += key.shape[2]
    return found


def batched_products(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """The same by two batched products around a softmax; query heads are adjacent."""
    found, at = [], 0
    for key, value in zip(keys[1:], values[1:], strict=True):
        queries = key.shape[2]
        own = q[0, :, at : at + queries].reshape(KEY_HEADS, -1, HEAD)
        k, v = torch.cat([keys[0], key], 2)[0], torch.cat([values[0], value], 2)[0]
        hidden = torch.full((queries, k.shape[1]), -torch.inf).triu_(keys[0].shape[2] + 1)
        mask = hidden.repeat(HEADS // KEY_HEADS, 1)[None].expand(KEY_HEADS, -1, -1)
        weights = torch.baddbmm(mask, own, k.transpose(1, 2), alpha=SCALE).softmax(-1)
        found.append(torch.bmm(weights, v).view(HEADS, queries, HEAD).transpose(0, 1))
        at += queries
    return found


def merged(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """All outputs to the prompt at once, unmasked, each to itself, merged: a private operator."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    to_prompt, lse_prompt = flash(q, keys[0], values[0], 0.0, False, scale=SCALE)
    found, at = [], 0
    for key, value in zip(keys[1:], values[1:], strict=True):
        own = slice(at, at + key.shape[2])
        to_self, lse_self = flash(q[:, :, own], key, value, 0.0, True, scale=SCALE)
        first, second = (part[0].transpose(0, 1) for part in (to_prompt[:, :, own], to_self))
        found.append(merge_attention(first, lse_prompt[0][:, own], second, lse_self[0]))
        at += key.shape[2]
    return found


def compare_attention(prompt: int, outputs: int, products: float) -> None:
    """One line: the stock kernel's speed, the ways around it, and what is left of the limit."""
    draw = random.Random(0)
    lengths = [draw.randint(50, 400) for _ in range(outputs)]
    q = torch.randn(1, sum(lengths), HEADS, HEAD).transpose(1, 2)
    keys, values = (
        [torch.randn(1, n, KEY_HEADS, HEAD).transpose(1, 2) for n in (prompt, *lengths)]
        for _ in range(2)
    )
    expected = torch.cat(now(q, keys, values))
    times = {}
    for way in (now, batched_products, merged):
        torch.testing.assert_close(torch.cat(way(q, keys, values)), expected)
        times[way] = milliseconds(lambda way=way: way(q, keys, values))
    own = torch.randn(1, HEADS, prompt, HEAD)
    of_prompt = milliseconds(lambda: _causal(own, keys[0], values[0], SCALE, None))
    billions = 4e-9 * HEADS * HEAD * sum(n * (prompt + n / 2) for n in lengths)
    speed = 1e3 * billions / times[now]
    tokens = prompt + sum(lengths)
    of_block = 2e-9 * tokens * (WIDTH * (576 * 2 + 192 * 2 + 1536 * 2) + MLP * WIDTH) / products
    fastest = min(times.values())
    shares = [of_block / (of_block + (of_prompt + t) / 1e3) for t in (times[now], fastest)]
    ratios = (f"{times[now] / times[way]:.2f}x" for way in (batched_products, merged))
    print_row(
        f"{prompt}, {outputs}", f"{speed:.0f}", *ratios, *(f"{share:.0%}" for share in shares)
    )


@torch.inference_mode()
def main() -> None:
    """Prints all of it."""
    torch.set_num_threads(1)
    x, weight = torch.randn(2048, WIDTH), torch.randn(MLP, WIDTH)
    plain = 2e-6 * 2048 * WIDTH * MLP / milliseconds(lambda: functional.linear(x, weight), 20)
    print(f"plain products: {plain:.1f} GFLOP/s")
    products = compare_products()
    columns = ("attention, GFLOP/s", "by batched products", "merged", "products' share at most")
    print()
    print_header("prompt, outputs", *columns, "by the fastest way")
    for prompt, outputs in WORKLOADS:
        compare_attention(prompt, outputs, products)


if __name__ == "__main__":
    main()
