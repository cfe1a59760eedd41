"""What the modules of a decoder say about sharing prompts: state that no attention mask reaches."""

import re

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from featurize.model.attention import UnsupportedAttention
from featurize.model.batch import PackLayout

_CARRIES_STATE = re.compile(
    "Mamba|Rwkv|SSM|Recurrent|RgLru|DeltaNet|LinearAttention|LightningAttention|LSTM|ShortConv"
    "|Indexer|Compressor|RWKV|KDA"
)
"""Classes of modules that mix tokens by their order in the sequence, or choose among all of them.

Such a module takes its neighbours in a pack for what came before it. The comparison of the forwards
may miss that: over some lengths and weights the error is below the rounding of 16 bits.
"""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_SHAREABLE_LAYERS = {"full_attention", "sliding_attention"}


def why_not_shared(decoder: PreTrainedModel, blocks: nn.ModuleList) -> str | None:
    """Return why outputs cannot share a prompt in this decoder; None if its structure allows it."""
    if reason := _position_bias(decoder.config.get_text_config()):
        return reason
    for module in blocks.modules():
        name = type(module).__name__
        if isinstance(module, _CONVOLUTIONS) or _CARRIES_STATE.search(name):
            return f"{name} mixes tokens by their place in the sequence"
    return None


def check_attended(decoder: PreTrainedModel, blocks: nn.ModuleList, layout: PackLayout) -> None:
    """Check after a pack that every block attended by its layout, with its window.

    Raises:
        UnsupportedAttention: a block mixes up the sequences of a pack, or builds its window into a
            mask that packs do not have. On short sequences, neither need show.
    """
    windows = [
        [layout.attended[module] for module in block.modules() if module in layout.attended]
        for block in blocks
    ]
    layout.attended.clear()
    if num_others := sum(not found for found in windows):
        raise UnsupportedAttention(f"{num_others} of {len(blocks)} blocks have their own attention")
    is_sliding = _sliding_blocks(decoder.config.get_text_config(), len(blocks))
    if any(None in found for found, slides in zip(windows, is_sliding, strict=True) if slides):
        raise UnsupportedAttention(f"{type(decoder).__name__} has its sliding window in a mask")


def _sliding_blocks(config: PreTrainedConfig, num_blocks: int) -> list[bool]:
    """Which blocks have a sliding window according to the configuration."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds[:num_blocks]]
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return [bool(slides)] * num_blocks


def _position_bias(config: PreTrainedConfig) -> str | None:
    """Return what adds a bias by the distance in the sequence, or attends in chunks of it."""
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return f"{config.model_type} adds ALiBi, a bias by the distance in the sequence"
    others = set(getattr(config, "layer_types", None) or ()) - _SHAREABLE_LAYERS
    if others:
        return f"{config.model_type} has layers of {min(others)}"
    return None
