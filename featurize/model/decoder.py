"""The text decoder inside a model: its blocks, and what they say about sharing and batching.

transformers computes one set of rotary frequencies for all rows of a forward pass. With longrope
(Phi-3) they change above a threshold; with dynamic NTK they change with every length above it, and
the module remembers the longest call so far. Sequences of other frequencies run apart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from featurize.errors import CriticError
from featurize.model.attention import UnsupportedAttention
from featurize.model.batch import PackLayout
from featurize.model.packing import PromptGroup

_CARRIES_STATE = re.compile(
    "Mamba|Rwkv|SSM|Recurrent|RgLru|DeltaNet|LinearAttention|LightningAttention|LSTM|ShortConv"
    "|Indexer|Compressor|RWKV|KDA"
)
"""Classes of modules that mix tokens by their order in the sequence, or choose among all of them.

Such a module takes its neighbours in a pack for what came before it. The comparison of the forwards
may miss that: over some lengths and weights the error is below the rounding of 16 bits.
"""
_SHAREABLE_LAYERS = {"full_attention", "sliding_attention"}


def find_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a model that turns token ids into hidden states.

    It is the base of a causal language model, the text tower of a multimodal one, and the inner
    decoder of those that wrap it once more (OPT).

    Raises:
        CriticError: there is no decoder with a list of blocks.
    """
    text = model.config.get_text_config()
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or find_blocks(module) is None:
            continue
        # The tower of another kind, such as images, has a config of its own.
        if module.config.get_text_config().model_type == text.model_type:
            return module
    raise CriticError(
        f"{type(model).__name__}: no list of {text.num_hidden_layers} blocks in it, so it is not a"
        " plain decoder; give another models.policy.path"
    )


def find_blocks(model: PreTrainedModel) -> str | None:
    """Return the name of the list of blocks among the children of a model; None without one."""
    number = getattr(model.config, "num_hidden_layers", None)
    if number is None:  # of a model with towers; that of its text tower
        number = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        name
        for name, child in model.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == number
    ]
    return lists[0] if lists else None


def hidden_of(output: Any) -> Tensor:
    """Take the hidden states from what a block returns."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden


def check_blocks(
    decoder: PreTrainedModel, blocks: nn.ModuleList, ids: Tensor, **options: Any
) -> None:
    """Run a decoder over ids [1, tokens]: each block must run once, and give a vector per token.

    Args:
        options: more arguments of its forward.

    Raises:
        CriticError: it does not, so its layers have no hidden states of the usual kind.
    """
    name, width = type(decoder).__name__, int(decoder.config.get_text_config().hidden_size)
    runs = [0] * len(blocks)

    def hook(place: int) -> Any:
        # It raises at once: on the meta device a later block may not run.
        def after(_block: Any, _args: Any, output: Any) -> None:
            runs[place] += 1
            shape = list(hidden_of(output).shape)
            if shape != [*ids.shape, width]:
                raise CriticError(
                    f"{name}: a block gives hidden states of shape {shape} where"
                    f" {[*ids.shape, width]} is one vector per token; give another"
                    " models.policy.path"
                )

        return after

    handles = [block.register_forward_hook(hook(place)) for place, block in enumerate(blocks)]
    try:
        with torch.inference_mode():
            decoder(input_ids=ids, use_cache=False, **options)
    finally:
        for handle in handles:
            handle.remove()
    if set(runs) != {1}:
        raise CriticError(
            f"{name}: its blocks run {min(runs)} to {max(runs)} times over a text, so its layers"
            " have no hidden states of their own; give another models.policy.path"
        )


@torch.inference_mode()
def find_final_norm(decoder: PreTrainedModel, blocks: nn.ModuleList, ids: Tensor) -> nn.Module:
    """Return the module between the last block and the output of a decoder.

    It is recognised by running the decoder over ids [1, tokens]: it gets what the last block
    gives, and what it gives is the output.

    Raises:
        CriticError: no single module does that.
    """
    last: list[Tensor] = []
    handle = blocks[-1].register_forward_hook(lambda *args: last.append(hidden_of(args[-1])))
    try:
        final = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    if torch.equal(final, last[0]):
        return nn.Identity()
    for child in decoder.children():
        if "norm" in type(child).__name__.lower() and torch.equal(child(last[0]), final):
            return child
    raise CriticError(
        f"{type(decoder).__name__}: more than one norm follows its last block, so the last layer"
        " cannot be made from states before the norm; name other featurize.layers"
    )


def why_not_shared(decoder: PreTrainedModel, blocks: nn.ModuleList) -> str | None:
    """Return why outputs cannot share a prompt in this decoder; None if its structure allows it.

    That is state that no attention mask reaches.
    """
    config = decoder.config.get_text_config()
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return f"{config.model_type} adds ALiBi, a bias by the distance in the sequence"
    if others := set(getattr(config, "layer_types", None) or ()) - _SHAREABLE_LAYERS:
        return f"{config.model_type} has layers of {min(others)}"
    for module in blocks.modules():
        name = type(module).__name__
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) or _CARRIES_STATE.search(name):
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


@dataclass(frozen=True, kw_only=True)
class LengthRule:
    """Which lengths have the same frequencies; sequences of different classes run apart."""

    switches: tuple[int, ...] = ()
    """Lengths above which the frequencies are others (longrope)."""
    grows: tuple[int, ...] = ()
    """Lengths above which every length has its own (dynamic NTK)."""

    def class_of(self, length: int) -> tuple[int, ...]:
        """The class of a sequence of `length` tokens."""
        switched = (int(length > limit) for limit in self.switches)
        return (*switched, *(length if length > limit else 0 for limit in self.grows))


ANY_LENGTH = LengthRule()
"""Frequencies do not depend on the length."""


def length_rule(decoder: nn.Module) -> LengthRule:
    """Read from the rotary modules of a decoder which lengths may run together."""
    switches, grows = set(), set()
    module: Any
    for module in decoder.modules():
        for _, kind, parameters in _rope_kinds(module):
            if "dynamic" in kind:
                grows.add(int(module.original_max_seq_len))
            elif kind == "longrope":
                switches.add(int(parameters["original_max_position_embeddings"]))
        if "Indexer" in type(module).__name__:
            grows.add(0)  # sparse attention that chooses among padding too (DeepSeek V3.2)
    return LengthRule(switches=tuple(sorted(switches)), grows=tuple(sorted(grows)))


def reset_frequencies(decoder: nn.Module) -> None:
    """Make dynamic NTK forget earlier calls: a value must not depend on what ran before it."""
    module: Any
    for module in decoder.modules():
        for name, kind, _ in _rope_kinds(module):
            if "dynamic" in kind:
                current = getattr(module, f"{name}inv_freq")
                original = getattr(module, f"{name}original_inv_freq").to(current.device)
                module.register_buffer(f"{name}inv_freq", original, persistent=False)
                setattr(module, f"{name}max_seq_len_cached", module.original_max_seq_len)


def split_by_length(groups: Iterable[PromptGroup], rule: LengthRule) -> list[list[PromptGroup]]:
    """Split groups into parts whose sequences have one class; one part if all have the same."""
    parts: dict[tuple[int, ...], list[PromptGroup]] = {}
    for group in groups:
        places: dict[tuple[int, ...], list[int]] = {}
        for place, output in enumerate(group.outputs):
            kind = rule.class_of(len(group.prompt) + len(output))
            places.setdefault(kind, []).append(place)
        for kind, chosen in places.items():
            parts.setdefault(kind, []).append(group.take(chosen))
    return [parts[kind] for kind in sorted(parts)]


def _rope_kinds(module: nn.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """What a rotary module's buffers begin with, its kind and its parameters: of all layers, or of
    each type of layer."""
    kinds: Any = getattr(module, "rope_type", None)
    parameters: Any = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    if isinstance(kinds, str):
        return [("", kinds, parameters)]
    if isinstance(kinds, dict):
        return [(f"{layer}_", kind, parameters.get(layer, {})) for layer, kind in kinds.items()]
    return []
