"""The frozen language model: loaded, checked, and cut to the layers that features need."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from featurize.errors import CriticError
from featurize.model.attention import SHARED_PROMPT, shared_prompt_attention
from featurize.model.blocks import can_pack, speed_up
from featurize.model.decoder import (
    ANY_LENGTH,
    LengthRule,
    check_blocks,
    find_blocks,
    find_decoder,
    length_rule,
    why_not_shared,
)
from featurize.model.families.family import LoadOptions
from featurize.model.sharing import WHOLE, Sharing, finish_sharing
from featurize.model.source import BackboneSource, load_model, read_backbone_config
from featurize.settings import BackboneParams, BackboneSettings


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded backbone."""

    decoder: PreTrainedModel  # embeddings, blocks, final norm
    blocks: nn.ModuleList  # up to the deepest layer that was asked for
    lm_head: nn.Module | None  # only for the likelihood
    num_layers: int  # of the whole model, whatever was cut
    hidden_size: int
    device: torch.device
    plain_attention: str  # sdpa; eager for models without it (soft capping, attention sinks)
    unshareable: str | None = None  # why outputs cannot share a prompt, by the model's structure
    lengths: LengthRule = ANY_LENGTH  # which sequences may run in one batch

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits: final hidden states [tokens, hidden] -> float32 [tokens, vocabulary]."""
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(hidden).float()
        config = self.decoder.config
        # Some models scale what their lm_head returns: Cohere multiplies, Granite divides, Gemma 2
        # caps. `_check_logits` compares the result with the model's own logits.
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits


def resolve_layers(layers: tuple[int, ...] | str, num_layers: int) -> list[int]:
    """Return sorted layer numbers: 0 the embeddings, k after block k, `num_layers` the last.

    Negative numbers count from the end: -1 is the last layer, after the final norm.

    Raises:
        CriticError: the backbone has no such layer, or a layer is named twice.
    """
    if layers == "all":
        return list(range(num_layers + 1))
    resolved = []
    for layer in layers:
        assert isinstance(layer, int)
        if not -num_layers - 1 <= layer <= num_layers:
            raise CriticError(
                f"featurize.layers: {layer} is not a layer of the backbone; use"
                f" 0..{num_layers} (or -1 for the last)"
            )
        resolved.append(layer % (num_layers + 1))
    if len(set(resolved)) != len(resolved):
        raise CriticError(f"featurize.layers: {list(layers)} names a layer twice; name each once")
    return sorted(resolved)


def load_backbone(
    source: BackboneSource,
    settings: BackboneSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    deepest_layer: int,
    with_lm_head: bool,
    sharing: Sharing = WHOLE,
    is_plain: bool = False,
) -> Backbone:
    """Load a backbone, check it against `models.policy.params`, and drop unneeded blocks.

    All ranks that share a backbone load it at the same time, each its own part. `is_plain` keeps
    the blocks as transformers made them, for comparisons; otherwise a CPU gets faster ones.

    Raises:
        CriticError: the weights cannot be read, the model is not the one the config describes, or
            it is no causal decoder.
    """
    whole = read_backbone_config(source, settings)
    if settings.params is not None:
        _check_params(settings.params, source, settings, whole)
    num_layers = int(whole.num_hidden_layers)
    num_blocks = min(max(deepest_layer, 1), num_layers)
    options = LoadOptions(
        device=device,
        dtype=dtype,
        num_layers=num_blocks,
        with_lm_head=with_lm_head,
        sharing=sharing,
    )
    # NOTE: without a function that makes masks: transformers then makes none. With one it first
    # compares position ids on the device, for which the host waits.
    AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
    model = load_model(source, settings, options)
    model.eval().requires_grad_(False)
    finish_sharing(model, sharing)
    decoder = find_decoder(model)
    blocks = _cut_blocks(decoder, num_blocks)
    is_whole = not sharing.is_shared and settings.quantization is None
    if not is_plain and is_whole and device.type == "cpu" and can_pack():
        speed_up(blocks)
    backbone = Backbone(
        decoder=decoder,
        blocks=blocks,
        lm_head=model.get_output_embeddings() if with_lm_head else None,
        num_layers=num_layers,
        hidden_size=int(decoder.config.get_text_config().hidden_size),
        device=device,
        plain_attention=decoder.config._attn_implementation or "eager",
        unshareable=why_not_shared(decoder, blocks),
        lengths=length_rule(decoder),
    )
    if with_lm_head:
        # NOTE: before the causal check, which runs the decoder alone: FSDP must see the whole
        # model run once before a part of it may.
        _check_logits(model, backbone)
    check_blocks(decoder, blocks, torch.tensor([[0, 1, 2, 3]], device=device))
    _check_causal(backbone)
    return backbone


def _cut_blocks(decoder: PreTrainedModel, num_blocks: int) -> nn.ModuleList:
    """Keep the first `num_blocks` blocks of a decoder: those above would run for nothing."""
    config = decoder.config.get_text_config()
    num_layers = int(config.num_hidden_layers)
    name = find_blocks(decoder)
    assert name is not None, "find_decoder has found it"
    blocks = cast(nn.ModuleList, getattr(decoder, name))
    if num_blocks < num_layers:
        blocks = blocks[:num_blocks]
        setattr(decoder, name, blocks)
        config.num_hidden_layers = num_blocks
    return blocks


def _check_params(
    params: BackboneParams,
    source: BackboneSource,
    settings: BackboneSettings,
    config: PreTrainedConfig,
) -> None:
    """Raise CriticError if the model differs from `models.policy.params`."""
    rope = getattr(config, "rope_parameters", None) or {}
    found = {
        "dim": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", config.num_attention_heads),
        "intermediate_size": getattr(config, "intermediate_size", None),
        "rope_theta": rope.get("rope_theta", getattr(config, "rope_theta", None)),
        "vocab_size": config.vocab_size,
        **source.family.layer_counts(config, settings),
    }
    for key, value in found.items():
        expected = getattr(params, key)
        if expected is not None and value is not None and expected != value:
            raise CriticError(
                f"models.policy.params.{key} is {expected}, but the backbone at {settings.path} has"
                f" {value}; correct the one that is wrong"
            )


@torch.inference_mode()
def _check_causal(backbone: Backbone) -> None:
    """Raise CriticError if the hidden state of a token depends on later tokens.

    The features of such a model would change with padding and with the cut of the output.
    """
    decoder = backbone.decoder
    # The two sequences differ in the last token only. They run one at a time, without padding.
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=backbone.device)
    first, second = (
        decoder(input_ids=row[None], use_cache=False).last_hidden_state[0, :-1].float()
        for row in ids
    )
    if (first - second).norm() > 1e-2 * first.norm():
        raise CriticError(
            f"{type(decoder).__name__}: its tokens attend to later tokens, so it is no causal"
            " language model; give another models.policy.path"
        )


@torch.inference_mode()
def _check_logits(model: PreTrainedModel, backbone: Backbone) -> None:
    """Raise CriticError unless `Backbone.logits` gives the model's own logits."""
    ids = torch.arange(4, device=backbone.device)[None]  # [1, 4]
    expected = model(input_ids=ids, use_cache=False).logits.float()
    hidden = backbone.decoder(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.allclose(backbone.logits(hidden), expected, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise CriticError(
            f"{type(model).__name__}: its logits are more than the output of its lm_head, so the"
            " likelihood would be wrong; set featurize.likelihood to false"
        )
