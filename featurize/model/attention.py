"""Shared-prompt attention: all outputs of a prompt attend to one copy of it.

In a pack, the tokens of a prompt attend causally to that prompt, and the tokens of an output attend
to its whole prompt and causally to the output. This equals causal attention over each (prompt,
output) sequence, but computes the prompt once.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from featurize.errors import CriticError
from featurize.model.batch import PackLayout

SHARED_PROMPT = "shared_prompt"


class UnsupportedAttention(CriticError):
    """The model needs a kind of attention that shared-prompt attention does not implement."""


def register() -> None:
    """Register `attn_implementation="shared_prompt"` with transformers."""
    AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
    AttentionMaskInterface.register(SHARED_PROMPT, _no_mask)


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackLayout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Compute attention over one pack; the signature is that of transformers' interface.

    Args:
        query: [1, heads, tokens, head_dim].
        key, value: [1, kv_heads, tokens, head_dim].
        layout: bounds of prompts and outputs.
        sliding_window: a token sees this many tokens, itself included.

    Returns:
        [1, tokens, heads, head_dim], and None for the attention weights.

    Raises:
        UnsupportedAttention: the model uses soft capping, sinks, biases or a mask.
    """
    for name in ("softcap", "s_aux", "position_bias", "position_bias_mask", "head_mask"):
        if extras.get(name) is not None:
            raise UnsupportedAttention(f"{type(module).__name__} uses {name}")
    if attention_mask is not None or not getattr(module, "is_causal", True):
        raise UnsupportedAttention(f"{type(module).__name__} is not causal, or has a mask")
    layout.attended[module] = sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    longest = layout.longest_prompt + layout.longest_output
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    has_kernel = query.dtype in (torch.float16, torch.bfloat16) and window is None
    # The flash kernel needs one width, at most 256; the values of DeepSeek are narrower.
    has_kernel = has_kernel and query.shape[-1] == value.shape[-1] <= 256
    if query.is_cuda and has_kernel:
        return _varlen(query, key, value, layout, scale), None
    return _blockwise(query, key, value, layout, scale, window), None


def _blockwise(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, scale: float, window: int | None
) -> Tensor:
    """Attend one prompt and one output at a time, on any device and in any dtype."""
    heads, tokens = query.shape[1:3]
    result = query.new_empty((tokens, heads, value.shape[-1]))
    for group in range(len(layout.prompt_bounds) - 1):
        prompt = slice(layout.prompt_bounds[group], layout.prompt_bounds[group + 1])
        prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
        attended = _causal(query[:, :, prompt], prompt_key, prompt_value, scale, window)
        result[prompt] = attended[0].transpose(0, 1)
        for number in range(layout.group_bounds[group], layout.group_bounds[group + 1]):
            output = slice(layout.output_bounds[number], layout.output_bounds[number + 1])
            attended = _causal(
                query[:, :, output],
                torch.cat([prompt_key, key[:, :, output]], dim=2),
                torch.cat([prompt_value, value[:, :, output]], dim=2),
                scale,
                window,
            )
            result[output] = attended[0].transpose(0, 1)
    return result[None]


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, scale: float) -> Tensor:
    """Attend over a pack in three calls of the variable-length flash kernel (CUDA, 16 bits).

    The calls are prompts to themselves, outputs to their prompts, and outputs to themselves. The
    last two are merged exactly by their log-sum-exp.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    cut = layout.prompt_bounds[-1]  # q, k, v are [tokens, heads, width]: prompts, then outputs
    options: dict[str, Any] = {"scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    prompts, groups, outputs = layout.prompt_starts, layout.group_starts, layout.output_starts
    longest = (layout.longest_prompt, layout.longest_group, layout.longest_output)
    of_prompts = varlen_attn(
        q[:cut], k[:cut], v[:cut], prompts, prompts, longest[0], longest[0],
        window_size=(-1, 0), **options,
    )  # fmt: skip
    with_lse = AuxRequest(lse=True)
    to_prompt, lse_prompt = varlen_attn(
        q[cut:], k[:cut], v[:cut], groups, prompts, longest[1], longest[0],
        return_aux=with_lse, **options,
    )  # fmt: skip
    to_self, lse_self = varlen_attn(
        q[cut:], k[cut:], v[cut:], outputs, outputs, longest[2], longest[2],
        return_aux=with_lse, window_size=(-1, 0), **options,
    )  # fmt: skip
    merged = merge_attention(to_prompt, lse_prompt, to_self, lse_self)
    return torch.cat([cast(Tensor, of_prompts), merged])[None]


def merge_attention(first: Tensor, lse_first: Tensor, second: Tensor, lse_second: Tensor) -> Tensor:
    """Merge attention over two disjoint sets of keys into attention over their union.

    softmax over A and B = w * softmax over A + (1 - w) * softmax over B with
    w = sigmoid(lse_A - lse_B) (FlashAttention, Dao et al. 2022, section 3.1).

    Args:
        first, second: [tokens, heads, head_dim].
        lse_first, lse_second: log-sum-exp of the scores, [heads, tokens] or [tokens, heads].
    """
    weight = torch.sigmoid(lse_first.float() - lse_second.float())
    tokens, heads = first.shape[:2]
    # NOTE: varlen_attn documents [tokens, heads], but torch 2.13's kernel gives [heads, tokens];
    # if both numbers are equal, the shape is ambiguous, so the order of the kernel is assumed.
    if weight.shape == (heads, tokens):
        weight = weight.transpose(0, 1)
    return torch.lerp(second.float(), first.float(), weight[..., None]).to(first.dtype)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Compute causal attention of the last tokens of a sequence: [1, heads, queries, head_dim].

    q holds the last q.shape[2] of the k.shape[2] tokens.
    """
    queries, keys = q.shape[2], k.shape[2]
    gqa = q.shape[1] != k.shape[1]
    if queries == keys and (window is None or window >= keys):
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=gqa
        )
    distance = torch.arange(keys - queries, keys, device=q.device)[:, None] - torch.arange(
        keys, device=q.device
    )
    mask = distance >= 0
    if window is not None:
        mask &= distance < window
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa
    )


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Build no mask: the layout defines which tokens attend to which."""
