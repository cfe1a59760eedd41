"""The frozen language model: loaded, checked and cut to the layers that are asked for."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from featurize.model.checks import check_causal, check_complete, check_logits, check_params
from featurize.model.cpu_blocks import can_pack, speed_up
from featurize.model.families.llama_mtp import load_llama_mtp, read_llama_config
from featurize.model.quantization import quantization_config
from featurize.model.sharing import (
    WHOLE,
    Sharing,
    cut_config,
    finish_sharing,
    to_distributed_config,
)
from featurize.model.source import (
    UNREADABLE,
    BackboneSource,
    find_backbone,
    load_tokenizer,
    read_backbone_config,
    text_config,
    unreadable,
)
from featurize.settings import BackboneSettings

__all__ = [
    "Backbone",
    "BackboneSource",
    "find_backbone",
    "load_backbone",
    "load_tokenizer",
    "read_backbone_config",
    "resolve_layers",
]

RANDOM_SEED = 0
"""Of the weights of `models.policy.weights: random`."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded backbone, ready to run."""

    decoder: PreTrainedModel  # embeddings, blocks, final norm
    blocks: nn.ModuleList  # up to the deepest layer asked for
    lm_head: nn.Module | None  # only when the likelihood is asked for
    num_layers: int  # of the whole backbone
    hidden_size: int
    device: torch.device
    plain_attention: str  # sdpa, or eager for models that have no other (soft capping, sinks)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [tokens, hidden] -> float32 [tokens, vocabulary]."""
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(hidden).float()
        config = self.decoder.config
        # The scalings models put behind their lm_head: Cohere multiplies, Granite divides,
        # Gemma 2 caps. The engine checks the sum against the model's own at the start.
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits


def resolve_layers(layers: tuple[int, ...] | str, num_layers: int) -> list[int]:
    """Layer numbers as transformers counts hidden states: 0 embeddings, `num_layers` the last.

    Negative numbers count from the end: -1 is the last layer, after the final norm.

    Raises:
        ValueError: a layer the backbone does not have, or one named twice.
    """
    if layers == "all":
        return list(range(num_layers + 1))
    resolved = []
    for layer in layers:
        assert isinstance(layer, int)
        if not -num_layers - 1 <= layer <= num_layers:
            raise ValueError(
                f"featurize.layers: {layer} is not one of the backbone's layers, which are"
                f" 0..{num_layers} (or -1 for the last)"
            )
        resolved.append(layer % (num_layers + 1))
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"featurize.layers: {list(layers)} names a layer twice; name each once")
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
    """Loads the backbone, checks it against `models.policy.params`, drops what is not needed.

    A shared backbone is loaded by all ranks of a group at once, each reading its own part. On a CPU
    its blocks are made faster unless `is_plain`, for comparisons.

    Raises:
        ValueError: unreadable weights, or another model than the config says it is.
    """
    whole = read_backbone_config(source, settings)
    check_params(settings, whole, is_mtp=source.is_mtp)
    num_layers = int(whole.num_hidden_layers)
    num_blocks = min(max(deepest_layer, 1), num_layers)
    model = _load_model(source, settings, device, dtype, with_lm_head, sharing, num_blocks)
    model.eval().requires_grad_(False)
    finish_sharing(model, sharing)
    decoder = cast(PreTrainedModel, model.base_model if with_lm_head else model)
    config = text_config(decoder.config)
    name, blocks = _find_blocks(decoder, int(config.num_hidden_layers))
    if num_blocks < len(blocks):
        # Blocks above the deepest layer asked for would be computed for nothing.
        blocks = blocks[:num_blocks]
        setattr(decoder, name, blocks)
        config.num_hidden_layers = len(blocks)
    is_whole = not sharing.is_shared and settings.quantization is None
    if not is_plain and is_whole and device.type == "cpu" and can_pack():
        speed_up(blocks)
    backbone = Backbone(
        decoder=decoder,
        blocks=blocks,
        lm_head=model.get_output_embeddings() if with_lm_head else None,
        num_layers=num_layers,
        hidden_size=int(config.hidden_size),
        device=device,
        plain_attention=decoder.config._attn_implementation or "eager",
    )
    if with_lm_head:
        # NOTE: before the other check, which runs the decoder alone: FSDP has to see the whole
        # model run once before a part of it may.
        check_logits(model, decoder, backbone.logits, device)
    check_causal(decoder, device)
    return backbone


def _load_model(
    source: BackboneSource,
    settings: BackboneSettings,
    device: torch.device,
    dtype: torch.dtype,
    with_lm_head: bool,
    sharing: Sharing,
    num_blocks: int,
) -> PreTrainedModel:
    if source.is_mtp:
        if settings.quantization:
            raise ValueError(
                "models.policy.quantization is for transformers' own formats; a llama-MTP"
                " checkpoint is read as it is: set it to null"
            )
        if settings.mtp_output == "trunk" and with_lm_head:
            raise ValueError(
                "the trunk predicts no next token, so there is no likelihood; set"
                " models.policy.mtp_output to next_token or featurize.likelihood to false"
            )
        if settings.weights == "random":
            return _draw_model(source, settings, device, dtype, with_lm_head)
        return load_llama_mtp(
            source.folder,
            output=settings.mtp_output,
            dtype=dtype,
            with_lm_head=with_lm_head,
            num_layers=num_blocks,
            device=device,
            sharing=sharing,
        )
    if settings.weights == "random":
        return _draw_model(source, settings, device, dtype, with_lm_head)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": settings.trust_remote_code}
    if settings.quantization:
        options["quantization_config"] = quantization_config(settings.quantization, dtype)
    if sharing.is_shared:
        config = AutoConfig.from_pretrained(
            source.folder, trust_remote_code=settings.trust_remote_code
        )
        options["config"] = cut_config(config, num_blocks)
        options["distributed_config"] = to_distributed_config(sharing, device)
    elif settings.quantization or device.type != "cpu":
        options["device_map"] = {"": device}
    auto: Any = AutoModelForCausalLM if with_lm_head else AutoModel
    try:
        loaded, report = auto.from_pretrained(source.folder, output_loading_info=True, **options)
    except UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(unreadable(source.folder, "backbone", error)) from error
    check_complete(source.folder, report["missing_keys"])
    return cast(PreTrainedModel, loaded)


def _draw_model(
    source: BackboneSource,
    settings: BackboneSettings,
    device: torch.device,
    dtype: torch.dtype,
    with_lm_head: bool,
) -> PreTrainedModel:
    """The model as transformers starts one, the same weights each time; none are read."""
    auto: Any = AutoModelForCausalLM
    try:
        config = (
            read_llama_config(source.folder, output=settings.mtp_output)
            if source.is_mtp
            else AutoConfig.from_pretrained(
                source.folder, trust_remote_code=settings.trust_remote_code
            )
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)
            # NOTE: with its output matrix even where that is not wanted, and on the CPU: so the
            # numbers do not depend on what is asked for nor on the device.
            model: PreTrainedModel = auto.from_config(
                config, dtype=dtype, trust_remote_code=settings.trust_remote_code
            )
    except UNREADABLE as error:
        raise ValueError(unreadable(source.folder, "backbone", error)) from error
    model.to(device)  # type: ignore[arg-type]
    return model if with_lm_head else cast(PreTrainedModel, model.base_model)


def _find_blocks(decoder: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """The list of transformer blocks and the attribute that holds it."""
    for name, child in decoder.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == num_layers:
            return name, child
    raise ValueError(
        f"{type(decoder).__name__}: no list of {num_layers} blocks found in it; it is not a plain"
        " decoder that features can be taken from"
    )
