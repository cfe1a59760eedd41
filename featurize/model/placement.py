"""What runs where: by which kernels a backbone attends, from its config alone."""

from typing import Any

import torch
from transformers import PreTrainedConfig

from featurize.model.attention import why_no_kernel


def describe_attention(
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    forward: str,
    max_length: int,
) -> str:
    """Return how outputs attend, in one line.

    Args:
        config: of the language model.
        device, dtype: of the forward pass.
        forward: `featurize.forward`.
        max_length: tokens of the longest sample, which a sliding window may cover.
    """
    where = f"{device.type}, {str(dtype).removeprefix('torch.')}"
    if forward == "padded":
        return f"{where}: padded, a copy of the prompt per output (featurize.forward)"
    key_width, value_width = head_widths(config)
    shape = f"{where}, head width {key_width}, {describe_window(config, max_length)}"
    condition = "" if forward == "packed" else "; padded if the check fails"
    if refusal := why_no_kernel(device, dtype, key_width, value_width):
        return f"{shape}: packed, one call per prompt and output ({refusal}){condition}"
    return f"{shape}: packed, flash kernel{condition}"


def describe_window(config: PreTrainedConfig, max_length: int) -> str:
    """Return the sliding window of a backbone, if a sample can be longer."""
    window: Any = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    if not isinstance(window, int):
        return "no window"
    return f"window of {window} tokens" + (" (never reached)" if window >= max_length else "")


def head_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the width of the keys and of the values of a head."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    nope, rope = (getattr(config, f"qk_{part}_head_dim", None) for part in ("nope", "rope"))
    value_width = getattr(config, "v_head_dim", None)
    if nope and rope and value_width:  # multi-head latent attention
        return int(nope + rope), int(value_width)
    return int(width), int(width)
