"""Shared-prompt attention: all outputs of a prompt attend to one copy of it.

In a pack, the tokens of a prompt attend causally to that prompt, and the tokens of an output attend
to its whole prompt and causally to the output. This equals causal attention over each (prompt,
output) sequence, but computes the prompt once.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from featurize.errors import CriticError
from featurize.model.batch import PackLayout

SHARED_PROMPT = "shared_prompt"

MAX_HEAD_WIDTH = 256
"""Widest head of the flash kernel; a width must be a multiple of `HEAD_WIDTH_STEP`."""
HEAD_WIDTH_STEP = 8
MIN_CAPABILITY = (8, 0)
"""Oldest compute capability of the flash kernel: Ampere."""


class UnsupportedAttention(CriticError):
    """The model needs a kind of attention that shared-prompt attention does not implement."""


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
    refusal = why_no_kernel(query.device, query.dtype, query.shape[-1], value.shape[-1])
    if refusal is not None:
        return _blockwise(query, key, value, layout, scale, window), None
    if window is not None:
        return _varlen_windowed(query, key, value, layout, scale, window), None
    return _varlen(query, key, value, layout, scale), None


def why_no_kernel(
    device: torch.device, dtype: torch.dtype, key_width: int, value_width: int
) -> str | None:
    """Return why the variable-length flash kernel cannot run; None if it can.

    Args:
        device: of the backbone.
        dtype: number format of the forward pass.
        key_width, value_width: width of a head; the values of DeepSeek are narrower.
    """
    if reason := _why_not_on(device):
        return reason
    if dtype not in (torch.float16, torch.bfloat16):
        return f"{str(dtype).removeprefix('torch.')} is not a 16-bit format"
    if key_width != value_width:
        return f"keys are {key_width} wide and values {value_width}"
    if key_width > MAX_HEAD_WIDTH or key_width % HEAD_WIDTH_STEP:
        return (
            f"heads are {key_width} wide, not a multiple of {HEAD_WIDTH_STEP} up to"
            f" {MAX_HEAD_WIDTH}"
        )
    return None


def _why_not_on(device: torch.device) -> str | None:
    """Return why a device has no variable-length flash kernel; None if it has one."""
    if device.type != "cuda":
        return f"no flash kernel on {device.type}"
    if torch.version.hip is not None:
        return "ROCm's kernel gives its log-sum-exp in another shape"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < MIN_CAPABILITY:
        return f"compute capability {major}.{minor} is below 8.0"
    return None


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
    """Attend over a pack in two calls of the variable-length flash kernel (CUDA, 16 bits).

    The first is causal over every prompt and every output alone; the second is over the prompt of
    each output. For outputs, the two are merged exactly by their log-sum-exp.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    q, k, v = _tokens_first(query, key, value)
    cut = layout.prompt_bounds[-1]  # q, k, v are [tokens, heads, width]: prompts, then outputs
    options = {"scale": scale, **_optional_arguments(varlen_attn, q, k)}
    sequences, longest = layout.sequence_starts, max(layout.longest_prompt, layout.longest_output)
    with_lse = AuxRequest(lse=True)
    result, lse_self = varlen_attn(
        q, k, v, sequences, sequences, longest, longest,
        return_aux=with_lse, window_size=(-1, 0), **options,
    )  # fmt: skip
    to_prompt, lse_prompt = varlen_attn(
        q[cut:], k[:cut], v[:cut], layout.group_starts, layout.prompt_starts,
        layout.longest_group, layout.longest_prompt, return_aux=with_lse, **options,
    )  # fmt: skip
    lse_self, lse_prompt = _heads_first(lse_self, lse_prompt, q.shape[1])
    result[cut:] = merge_attention(to_prompt, lse_prompt, result[cut:], lse_self[:, cut:])
    return cast(Tensor, result)[None]


def _varlen_windowed(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, scale: float, window: int
) -> Tensor:
    """Attend over a pack under a sliding window in one call of the kernel (CUDA, 16 bits).

    The keys of an output are the end of its prompt, which its first token sees, and itself. The
    kernel takes the queries for the last of the keys, and counts a window without the token itself.
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = _tokens_first(query, key, value)
    keys = layout.windowed(window)
    result = varlen_attn(
        q, k[keys.places], v[keys.places], layout.sequence_starts, keys.starts,
        max(layout.longest_prompt, layout.longest_output), keys.longest,
        window_size=(window - 1, 0), scale=scale, **_optional_arguments(varlen_attn, q, k),
    )  # fmt: skip
    return cast(Tensor, result)[None]


def _tokens_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    """[1, heads, tokens, width] -> [tokens, heads, width] each, as the kernel reads them."""
    return tuple(tensor[0].transpose(0, 1).contiguous() for tensor in tensors)


def _optional_arguments(kernel: Callable[..., Any], q: Tensor, k: Tensor) -> dict[str, Any]:
    """Choose the arguments that only some versions of torch's `varlen_attn` have.

    `enable_gqa` came with torch 2.12; before, the flash kernel accepts fewer heads of keys
    without it. `num_splits=1` keeps the result of a sequence independent of the others in its
    batch, and keeps torch 2.14 from another kernel than FlashAttention.
    """
    known = _parameters(kernel)
    wanted = {"enable_gqa": q.shape[1] != k.shape[1], "num_splits": 1}
    return {name: value for name, value in wanted.items() if name in known}


@functools.cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    """Names of the arguments; read once, as the kernel is called in every layer."""
    return frozenset(inspect.signature(kernel).parameters)


def _heads_first(whole: Tensor, part: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp of all tokens, and of the outputs' alone, as [heads, tokens].

    NOTE: varlen_attn documents [tokens, heads], but the kernel of torch 2.13 gives [heads, tokens].
    One of the two may be square, but not both.
    """
    if len(whole) == heads and len(part) == heads:
        return whole, part
    return whole.transpose(0, 1), part.transpose(0, 1)


def merge_attention(first: Tensor, lse_first: Tensor, second: Tensor, lse_second: Tensor) -> Tensor:
    """Merge attention over two disjoint sets of keys into attention over their union.

    softmax over A and B = w * softmax over A + (1 - w) * softmax over B with
    w = sigmoid(lse_A - lse_B) (FlashAttention, Dao et al. 2022, section 3.1).

    Args:
        first, second: [tokens, heads, head_dim].
        lse_first, lse_second: log-sum-exp of the scores, [heads, tokens].
    """
    weight = torch.sigmoid(lse_first.float() - lse_second.float()).transpose(0, 1)
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


def describe_attention(
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    forward: str,
    max_length: int,
) -> str:
    """Return in one line by which kernels outputs attend, from the config of a backbone alone.

    Args:
        config: of the language model.
        device, dtype: of the forward pass.
        forward: `featurize.forward`.
        max_length: tokens of the longest sample, which a sliding window may cover.
    """
    where = f"{device.type}, {str(dtype).removeprefix('torch.')}"
    if forward == "padded":
        return f"{where}: padded, a copy of the prompt per output (featurize.forward)"
    key_width, value_width = _head_widths(config)
    shape = f"{where}, head width {key_width}, {_describe_window(config, max_length)}"
    condition = "" if forward == "packed" else "; padded if the check fails"
    if refusal := why_no_kernel(device, dtype, key_width, value_width):
        return f"{shape}: packed, one call per prompt and output ({refusal}){condition}"
    return f"{shape}: packed, flash kernel{condition}"


def _describe_window(config: PreTrainedConfig, max_length: int) -> str:
    """The sliding window of a backbone, if a sample can be longer."""
    window: Any = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or not getattr(config, "use_sliding_window", True):
        return "no window"
    return f"window of {window} tokens" + (" (never reached)" if window >= max_length else "")


def _head_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the width of the keys and of the values of a head."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    nope, rope = (getattr(config, f"qk_{part}_head_dim", None) for part in ("nope", "rope"))
    value_width = getattr(config, "v_head_dim", None)
    if nope and rope and value_width:  # multi-head latent attention
        return int(nope + rope), int(value_width)
    return int(width), int(width)
