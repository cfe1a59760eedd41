"""Shared-prompt attention: its results, its kernels and where they run."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from transformers import DeepseekV3Config, Gemma3TextConfig, LlamaConfig, MistralConfig

from featurize.model import attention
from featurize.model.attention import (
    UnsupportedAttention,
    describe_attention,
    merge_attention,
    shared_prompt_attention,
    why_no_kernel,
)
from featurize.model.batch import PackLayout, make_pack
from featurize.model.packing import PromptGroup
from tests.support.loaded_backbones import CPU
from tests.support.plain_features import make_groups
from tests.support.varlen_kernel import Kernel

GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8)), (1, (4,)), (7, (2, 30, 1, 1))])
WIDTH = 16


def make_qkv(
    groups: list[PromptGroup], *, heads: int = 4, kv_heads: int = 2, value_width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor, PackLayout]:
    """Random queries, keys and values of a pack: [1, heads, tokens, width]; and its layout."""
    batch = make_pack(groups, CPU)
    assert batch.layout is not None
    generator = torch.Generator().manual_seed(1)

    def draw(number: int, width: int) -> Tensor:
        return 2 * torch.randn(1, number, batch.num_tokens, width, generator=generator)

    return draw(heads, WIDTH), draw(kv_heads, WIDTH), draw(kv_heads, value_width), batch.layout


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, groups: list[PromptGroup], window: int | None
) -> Tensor:
    """One softmax over the whole pack under a mask drawn token by token: [1, tokens, heads, w]."""
    places: list[tuple[int, int, int]] = []  # group, output (-1: the prompt), position
    for number, group in enumerate(groups):
        places += [(number, -1, position) for position in range(len(group.prompt))]
    output = 0
    for number, group in enumerate(groups):
        for tokens in group.outputs:
            start = len(group.prompt)
            places += [(number, output, start + step) for step in range(len(tokens))]
            output += 1
    mask = torch.tensor(
        [
            [
                mine[0] == other[0]
                and other[1] in (-1, mine[1])
                and 0 <= mine[2] - other[2] < (window or 10**9)
                for other in places
            ]
            for mine in places
        ]
    )
    repeats = query.shape[1] // key.shape[1]
    keys, values = (tensor.double().repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = query.double() @ keys.transpose(2, 3) * query.shape[3] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    attended: Tensor = weights @ values
    return attended.transpose(1, 2).float()


def test_values_may_be_narrower_than_keys() -> None:
    query, key, value, layout = make_qkv(GROUPS, value_width=8)
    found, _ = shared_prompt_attention(torch.nn.Module(), query, key, value, None, layout=layout)
    torch.testing.assert_close(found, dense_attention(query, key, value, GROUPS, None))


def test_the_scale_given_is_the_scale_used() -> None:
    query, key, value, layout = make_qkv(GROUPS)
    module = torch.nn.Module()
    found, _ = shared_prompt_attention(module, query, key, value, None, layout=layout, scaling=0.5)
    expected = dense_attention(query * 0.5 * WIDTH**0.5, key, value, GROUPS, None)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_go_in_and_come_out(dtype: torch.dtype) -> None:
    *tensors, layout = make_qkv(GROUPS)
    query, key, value = (tensor.to(dtype) for tensor in tensors)
    found, _ = shared_prompt_attention(torch.nn.Module(), query, key, value, None, layout=layout)
    assert found.dtype == dtype
    expected = dense_attention(query, key, value, GROUPS, None)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_it_cannot_do_is_refused_by_name(name: str) -> None:
    query, key, value, layout = make_qkv(GROUPS)
    options: dict[str, Any] = {name: None}
    module = torch.nn.Linear(1, 1)
    shared_prompt_attention(module, query, key, value, None, layout=layout, **options)
    options[name] = torch.ones(4)
    with pytest.raises(UnsupportedAttention, match=f"^Linear uses {name}$"):
        shared_prompt_attention(module, query, key, value, None, layout=layout, **options)


def test_a_mask_or_a_bidirectional_layer_is_refused() -> None:
    query, key, value, layout = make_qkv(GROUPS)
    module = torch.nn.Linear(1, 1)
    with pytest.raises(UnsupportedAttention, match="Linear is not causal, or has a mask"):
        shared_prompt_attention(module, query, key, value, torch.ones(1), layout=layout)
    module.is_causal = False  # type: ignore[assignment]
    with pytest.raises(UnsupportedAttention, match="Linear is not causal, or has a mask"):
        shared_prompt_attention(module, query, key, value, None, layout=layout)


# merge_attention


def test_a_set_without_weight_changes_nothing() -> None:
    first, second = torch.randn(2, 5, 4, 8)
    lse = torch.zeros(4, 5)
    nothing = torch.full((4, 5), float("-inf"))
    torch.testing.assert_close(merge_attention(first, lse, second, nothing), first)
    torch.testing.assert_close(merge_attention(first, nothing, second, lse), second)
    torch.testing.assert_close(merge_attention(first, lse + 500, second, lse), first)


def test_16_bits_are_merged_in_32() -> None:
    first, second = torch.randn(2, 5, 4, 8).bfloat16()
    lse = torch.zeros(4, 5)
    merged = merge_attention(first, lse, second, lse)
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, ((first.float() + second.float()) / 2).bfloat16())


# The CUDA kernel

LAYOUTS = {
    "several groups": [(5, (1, 12, 3)), (21, (17, 8)), (1, (4,)), (7, (2, 30, 1, 1))],
    "prompts and outputs of one token": [(1, (1, 1)), (1, (1,)), (1, (1, 1, 1))],
    "one prompt with one output": [(9, (6,))],
    "as many output tokens as heads": [(5, (3, 1))],
    "as many tokens as heads": [(1, (2, 1))],
    "200 outputs of a prompt": [(6, (2, 1, 1, 1) * 50)],
}


@pytest.mark.parametrize("window", [None, 1, 3, 8, 30])
@pytest.mark.parametrize("lse_heads_first", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cuda_kernel_does_any_pack_in_two_calls_and_under_a_window_in_one(
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    kv_heads: int,
    lse_heads_first: bool,
    window: int | None,
) -> None:
    kernel = Kernel(lse_heads_first=lse_heads_first)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(attention, "why_no_kernel", lambda *_: None)
    groups = make_groups(LAYOUTS[layout])
    query, key, value, bounds = make_qkv(groups, kv_heads=kv_heads)
    module = torch.nn.Module()
    found, _ = shared_prompt_attention(
        module, query, key, value, None, layout=bounds, sliding_window=window
    )
    longest = bounds.longest_prompt + bounds.longest_output
    assert kernel.num_calls == (1 if window is not None and window < longest else 2)
    torch.testing.assert_close(found, dense_attention(query, key, value, groups, window))


OLDER = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
OPTIONS = ("return_aux", "scale", "window_size")
NEWER = ("enable_gqa", "seqused_k", "block_table", "num_splits")


def signature_of(*options: str) -> inspect.Signature:
    """Of `varlen_attn`, with these arguments by name."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [inspect.Parameter(name, kinds[0]) for name in OLDER]
        + [inspect.Parameter(name, kinds[1], default=None) for name in options]
    )


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    "known",
    [signature_of(*OPTIONS), signature_of(*OPTIONS, *NEWER), inspect.signature(varlen.varlen_attn)],
    ids=["torch 2.11", "torch 2.13", "installed"],
)
def test_the_kernel_is_given_only_what_its_version_takes(
    monkeypatch: pytest.MonkeyPatch, known: inspect.Signature, window: int | None
) -> None:
    given: list[dict[str, Any]] = []

    def spy(*args: Any, **options: Any) -> Any:
        given.append(known.bind(*args, **options).arguments)
        return Kernel()(*args, **options)

    spy.__signature__ = known  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", spy)
    monkeypatch.setattr(attention, "why_no_kernel", lambda *_: None)
    query, key, value, layout = make_qkv(GROUPS)
    shared_prompt_attention(
        torch.nn.Module(), query, key, value, None, layout=layout, sliding_window=window
    )
    assert len(given) == (2 if window is None else 1)
    for arguments in given:
        assert ("enable_gqa" in arguments) == ("enable_gqa" in known.parameters)
        assert arguments.get("enable_gqa", True)
        # FlashAttention, and sums that do not depend on the other sequences of the batch.
        assert arguments.get("num_splits", 1) == 1
        assert ("num_splits" in arguments) == ("num_splits" in known.parameters)


@pytest.mark.parametrize(
    ("dtype", "widths", "reason"),
    [
        (torch.bfloat16, (64, 64), None),
        (torch.float16, (256, 256), None),
        (torch.float32, (64, 64), "float32 is not a 16-bit format"),
        (torch.bfloat16, (192, 128), "keys are 192 wide and values 128"),
        (torch.bfloat16, (100, 100), "heads are 100 wide, not a multiple of 8 up to 256"),
        (torch.bfloat16, (264, 264), "heads are 264 wide, not a multiple of 8 up to 256"),
    ],
)
def test_the_kernel_runs_where_number_format_and_heads_allow_it(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    widths: tuple[int, int],
    reason: str | None,
) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert why_no_kernel(cuda, dtype, *widths) == reason
    assert why_no_kernel(CPU, dtype, *widths) == "no flash kernel on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert why_no_kernel(cuda, dtype, *widths) == "compute capability 7.5 is below 8.0"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads"), [(4, 4), (8, 2), (34, 34)], ids=["plain", "grouped", "square"]
)
def test_the_cuda_kernel_agrees_with_the_public_operators(
    dtype: torch.dtype, heads: int, kv_heads: int
) -> None:
    groups = make_groups([(5, (1, 12, 3)), (21, (16, 2))])  # 34 output tokens
    *tensors, _ = make_qkv(groups, heads=heads, kv_heads=kv_heads)
    device = torch.device("cuda")
    layout = make_pack(groups, device).layout
    assert layout is not None
    query, key, value = (tensor.to(device, dtype) for tensor in tensors)
    kernel, _ = shared_prompt_attention(torch.nn.Module(), query, key, value, None, layout=layout)
    exact, _ = shared_prompt_attention(
        torch.nn.Module(), query.float(), key.float(), value.float(), None, layout=layout
    )
    torch.testing.assert_close(kernel.float(), exact, rtol=2e-2, atol=2e-2)


CUDA = torch.device("cuda", 0)
LLAMA = LlamaConfig(hidden_size=576, num_attention_heads=9)
WIDE = LlamaConfig(hidden_size=400, num_attention_heads=4)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def describe(config: Any, device: torch.device = CUDA, **options: Any) -> str:
    options = {"dtype": torch.bfloat16, "forward": "packed", "max_length": 2048} | options
    return describe_attention(config, device, **options)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LLAMA, "head width 64, no window: packed, flash kernel"),
        (
            WIDE,
            "head width 100, no window: packed, one call per prompt and output (heads are 100 wide",
        ),
        (
            DeepseekV3Config(),
            "head width 192, no window: packed, one call per prompt and output (keys",
        ),
        (
            MistralConfig(sliding_window=4096),
            "head width 128, window of 4096 tokens (never reached): packed, flash",
        ),
        (
            Gemma3TextConfig(sliding_window=512),
            "head width 256, window of 512 tokens: packed, flash kernel",
        ),
    ],
)
def test_heads_and_windows_decide_the_kernel(config: Any, line: str) -> None:
    assert describe(config).startswith(f"cuda, bfloat16, {line}")


@pytest.mark.usefixtures("hopper")
def test_the_device_and_the_number_format_decide_it_too() -> None:
    on_cpu = describe(LLAMA, CPU)
    assert on_cpu.endswith(" on cpu)")
    assert "float32 is not a 16-bit format" in describe(LLAMA, dtype=torch.float32)


@pytest.mark.usefixtures("hopper")
def test_the_forward_that_is_asked_for_is_named() -> None:
    assert describe(LLAMA, forward="padded") == (
        "cuda, bfloat16: padded, a copy of the prompt per output (featurize.forward)"
    )
    assert describe(LLAMA, forward="auto").endswith("flash kernel; padded if the check fails")
