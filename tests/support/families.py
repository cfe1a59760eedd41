"""Tiny random models of every causal family of the installed transformers, made from its config."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from featurize.model.attention import register
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.families.hf import HuggingFace
from featurize.model.source import BackboneSource
from featurize.settings import BackboneSettings

FAMILY_NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYERS = 4
MAX_PARAMETERS = 9_000_000

_SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64,
    "max_position_embeddings": 512, "d_model": 32, "n_embd": 32, "n_layer": LAYERS, "n_head": 4,
    "n_positions": 512, "num_layers": LAYERS, "num_heads": 4, "ffn_dim": 64,
    "word_embed_proj_dim": 32, "moe_intermediate_size": 32, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "shared_expert_intermediate_size": 32,
    "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1,
    "mamba_d_state": 8, "state_size": 8, "time_step_rank": 4, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "n_groups": 1, "attention_hidden_size": 32, "ssm_state_size": 8, "mamba_num_heads": 8,
    "mamba_head_dim": 8, "expand": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    "rotary_dim": 8, "sliding_window": 8, "encoder_layers": 1, "decoder_layers": LAYERS,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8,
    "qkv_hidden": 32, "attention_head_dim": 8, "n_inner": 64, "n_shared_experts": 1,
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8, "embedding_size": 32,
    "lru_width": 32, "chunk_size": 8, "mamba_chunk_size": 8, "attention_chunk_size": 8,
    "intermediate_size_mlp": 64, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32,
    "is_decoder": True, "num_attention_groups": 2,
}  # fmt: skip
_MIXED = ["conv", "full_attention"] * 2
_CHANGES: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "deepseek_v2": {"head_dim": 8},
    "zamba": {"mamba_d_state": 8, "attention_head_dim": 16, "attention_hidden_size": 64},
    "zaya": {"num_experts_per_tok": 1},
    "lfm2": {"layer_types": _MIXED},
    "lfm2_moe": {"layer_types": _MIXED},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "prophetnet": {"num_encoder_layers": LAYERS, "num_decoder_layers": LAYERS},
    "mamba2": {"num_heads": 8, "head_dim": 8},
}


class CannotBuild(Exception):
    """A config of a few numbers does not make a model of this family."""


class Made(HuggingFace):
    """Loads a model that is in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def read_config(self, *_args: Any) -> PreTrainedConfig:
        config: PreTrainedConfig = self.model.config
        return config

    def load_model(self, *_args: Any) -> PreTrainedModel:
        return self.model


def make_family(name: str, **changes: Any) -> PreTrainedModel:
    """Make a tiny random model; its weights keep the scale of their input, its norms are not ones.

    Raises:
        CannotBuild: transformers refuses the config, or the model is not tiny.
    """
    try:
        config = _config(name, changes)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        if sum(weight.numel() for weight in skeleton.parameters()) > MAX_PARAMETERS:
            raise CannotBuild(f"{name} is not tiny")
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        draw_weights(model)
        model.eval().requires_grad_(False)
        model(input_ids=torch.arange(2, 40)[None], use_cache=False)
    except Exception as error:  # each family has its own way to refuse
        raise CannotBuild(f"{name}: {error}") from error
    return model


@torch.no_grad()
def draw_weights(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2:
            weight.add_(0.2 * noise)
        elif any(part in name for part in ("embed", "wte", "wpe")):
            weight.copy_(noise)
        else:
            weight.copy_(1.5 * noise / weight.shape[-1] ** 0.5)


def to_backbone(model: PreTrainedModel) -> Backbone:
    """Load a model as the job does, but from memory."""
    register()
    nowhere = Path("nowhere")
    source = BackboneSource(
        family=Made(model),
        folder=nowhere,
        tokenizer_folder=nowhere,
        weight_files=(),
        digest="",
        tokenizer_digest="",
    )
    return load_backbone(
        source,
        BackboneSettings(name="made", path="nowhere"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        deepest_layer=LAYERS,
        with_lm_head=False,
    )


def _config(name: str, changes: dict[str, Any]) -> PreTrainedConfig:
    default = AutoConfig.for_model(name).get_text_config()
    known = set(default.to_dict()) | set(getattr(type(default), "attribute_map", {}))
    options = {key: value for key, value in _SIZES.items() if key in known}
    if "qk_rope_head_dim" in known:
        options.pop("head_dim", None)
        options["num_key_value_heads"] = 4
    if kinds := list(dict.fromkeys(getattr(default, "layer_types", None) or ())):
        options["layer_types"] = [kinds[place % len(kinds)] for place in range(LAYERS)]
    options |= _CHANGES.get(name, {}) | changes
    try:
        return type(default)(**options)
    except AttributeError:  # its types of layers follow from other settings
        options.pop("layer_types", None)
        return type(default)(**options)
