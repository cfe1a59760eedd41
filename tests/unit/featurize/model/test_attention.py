from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from featurize.model import attention
from featurize.model.attention import (
    UnsupportedAttention,
    merge_attention,
    shared_prompt_attention,
)
from featurize.model.batch import PackLayout, make_pack
from featurize.model.packing import PromptGroup
from tests.support.loaded_backbones import CPU
from tests.support.plain_features import make_groups

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


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 3, 8, 30, 37, 1000])
def test_tokens_see_their_prompt_their_own_past_and_nothing_else(
    window: int | None, kv_heads: int
) -> None:
    query, key, value, layout = make_qkv(GROUPS, kv_heads=kv_heads)
    module = torch.nn.Module()
    found, weights = shared_prompt_attention(
        module, query, key, value, None, layout=layout, sliding_window=window
    )
    assert weights is None
    torch.testing.assert_close(found, dense_attention(query, key, value, GROUPS, window))


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


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [tokens, heads, width] and its log-sum-exp [heads, tokens] in float64."""
    scores = torch.einsum("qhd,khd->hqk", query.double(), key.double())
    lse = scores.logsumexp(dim=2)
    return torch.einsum("hqk,khd->qhd", (scores - lse[:, :, None]).exp(), value.double()), lse


@pytest.mark.parametrize("order", ["heads first", "tokens first"])
def test_merging_two_sets_of_keys_is_one_softmax_over_both(order: str) -> None:
    query, key, value = torch.randn(3, 11, 4, 8, generator=torch.Generator().manual_seed(0))
    query = query[:7]
    (first, lse_first), (second, lse_second) = (
        attend(query, key[:6], value[:6]),
        attend(query, key[6:], value[6:]),
    )
    if order == "tokens first":
        lse_first, lse_second = lse_first.T, lse_second.T
    merged = merge_attention(first.float(), lse_first, second.float(), lse_second)
    torch.testing.assert_close(merged, attend(query, key, value)[0].float())


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


class Kernel:
    """torch.nn.attention.varlen.varlen_attn in plain float32, by its documentation."""

    def __init__(self, *, lse_heads_first: bool = True) -> None:
        self.lse_heads_first = lse_heads_first
        self.num_calls = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> Any:
        """query [tokens, heads, width]; bounds int32 [sequences + 1], one for queries and keys."""
        self.num_calls += 1
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert len(cu_seq_q) == len(cu_seq_k)
        assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
        assert len(key) == len(value)
        assert int(cu_seq_q.diff().max()) == max_q
        assert int(cu_seq_k.diff().max()) == max_k
        assert all(tensor.is_contiguous() for tensor in (query, key, value))
        assert window_size in ((-1, -1), (-1, 0))
        assert enable_gqa == (query.shape[1] != key.shape[1])
        repeats = query.shape[1] // key.shape[1]
        outputs, sums = [], []
        for (q0, q1), (k0, k1) in zip(
            pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True
        ):
            k = key[k0:k1].float().repeat_interleave(repeats, dim=1)
            v = value[k0:k1].float().repeat_interleave(repeats, dim=1)
            assert scale is not None
            scores = torch.einsum("qhd,khd->hqk", query[q0:q1].float(), k) * scale
            if window_size == (-1, 0):
                assert q1 - q0 == k1 - k0
                scores += torch.full_like(scores, float("-inf")).triu(1)
            outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=2), v))
            sums.append(scores.logsumexp(dim=2))  # [heads, queries]
        output = torch.cat(outputs).to(query.dtype)
        lse = torch.cat(sums, dim=1)
        if return_aux is None:
            return output
        assert return_aux.lse
        return output, lse if self.lse_heads_first else lse.T.contiguous()


@pytest.mark.parametrize("lse_heads_first", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_three_calls_of_the_cuda_kernel_do_a_whole_pack(
    monkeypatch: pytest.MonkeyPatch, kv_heads: int, lse_heads_first: bool
) -> None:
    kernel = Kernel(lse_heads_first=lse_heads_first)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    query, key, value, layout = make_qkv(GROUPS, kv_heads=kv_heads)
    found = attention._varlen(query, key, value, layout, WIDTH**-0.5)
    assert kernel.num_calls == 3
    torch.testing.assert_close(found, dense_attention(query, key, value, GROUPS, None))


def test_the_cuda_kernel_is_right_where_output_tokens_are_as_many_as_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", Kernel())
    groups = make_groups([(5, (3, 1))])
    query, key, value, layout = make_qkv(groups)
    found = attention._varlen(query, key, value, layout, WIDTH**-0.5)
    torch.testing.assert_close(found, dense_attention(query, key, value, groups, None))


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
