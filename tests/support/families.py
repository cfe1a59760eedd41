"""Tiny random models of every causal family of the installed transformers, made from its config."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from featurize.model.backbone import Backbone, load_backbone
from featurize.model.families.hf import HuggingFace
from featurize.model.source import BackboneSource
from featurize.settings import BackboneSettings
from tests.support.tiny_models import draw_weights

FAMILY_NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MAX_PARAMETERS = 9_000_000
LAYERS = 4

SIZES: dict[str, Any] = {
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
_TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_BYTES = _TOWER | {"vocab_size": 320}
CHANGES: dict[str, dict[str, Any]] = {
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
    "roc_bert": {
        "pronunciation_embed_dim": 8, "shape_embed_dim": 8, "pronunciation_vocab_size": 320,
        "shape_vocab_size": 320,
    },
    "xmod": {"default_language": "en_XX"},
    "longcat_flash": {
        "num_layers": LAYERS // 2, "zero_expert_num": 2, "moe_topk": 2, "ffn_hidden_size": 64,
        "num_key_value_heads": 4, "head_dim": 8,
    },
    "reformer": {
        "axial_pos_shape": (16, 32), "axial_pos_embds_dim": (16, 16), "attention_head_size": 8,
        "attn_layers": ["local", "lsh"] * 2, "feed_forward_size": 64, "num_buckets": 4,
        "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "hash_seed": 0,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 4,
        "mamba_d_state": 8, "adapter_rank": 4, "num_mem_blocks": 2, "use_mem_rope": True,
        "num_key_value_heads": 4, "attention_head_dim": None, "attention_hidden_size": None,
        "head_dim": None,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "max_seq_len": 512, "n_heads": 4, "n_layers": LAYERS,
    },
    "cohere_compass_text": {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            for kind in ("full_attention", "sliding_attention")
        },
    },
    "deepseek_v4": {
        "qk_rope_head_dim": None,
        "layer_types": [
            "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention",
            "sliding_attention",
        ],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"], "num_key_value_heads": 1,
        "head_dim": 16, "o_groups": 2, "o_lora_rank": 8, "hc_mult": 2, "index_topk": 4,
        "partial_rotary_factor": 0.5,
    },
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 2, "hc_count": 2,
        "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
        "indexer_budget": 8, "indexer_compress_ratio": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0,
            "mrope_section": [2, 1, 1],
        },
    },
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention"] * 2, "num_key_value_heads": 4,
        "head_dim": 16, "shared_experts_intermediate_size": 32,
        "mlp_layer_types": ["dense", "sparse"] * 2, "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
        "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_qk_rope_head_dim": 8,
        "swa_v_head_dim": 8, "per_layer_config": None,
    },
    "gemma4_unified_assistant": {"num_kv_shared_layers": LAYERS},
    "git": {"vision_config": _TOWER | {"image_size": 32, "patch_size": 16}},
    "phi4_multimodal": {
        "sliding_window": None,
        "vision_config": _TOWER | {"image_size": 28, "crop_size": 28},
        "audio_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 4,
            "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
        },
    },
    "blt": {
        "encoder_hash_byte_group_vocab": 500, "patcher_config": _BYTES,
        "encoder_config": _BYTES | {"hidden_size_global": 64},
        "decoder_config": _BYTES | {"hidden_size_global": 64},
        "global_config": _BYTES | {"hidden_size": 64},
    },
}  # fmt: skip
"""What a family needs besides `SIZES`; null leaves a size out."""


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
        config = tiny_config(name, changes)
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


def to_backbone(model: PreTrainedModel) -> Backbone:
    """Load a model as the job does, but from memory."""
    return load_backbone(
        source_of(model),
        BackboneSettings(name="made", path="nowhere"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        deepest_layer=LAYERS,
        with_lm_head=False,
    )


def source_of(model: PreTrainedModel) -> BackboneSource:
    """Where a model in memory is found."""
    nowhere = Path("nowhere")
    return BackboneSource(
        family=Made(model),
        folder=nowhere,
        tokenizer_folder=nowhere,
        weight_files=(),
        digest="",
        tokenizer_digest="",
    )


def tiny_config(name: str, changes: dict[str, Any] | None = None) -> PreTrainedConfig:
    """Make the tiny config of a family: that of its text tower, where it has towers."""
    whole = type(AutoConfig.for_model(name))
    default = AutoConfig.for_model(name).get_text_config()
    known = set(default.to_dict()) | set(getattr(type(default), "attribute_map", {}))
    options = {key: value for key, value in SIZES.items() if key in known}
    if "qk_rope_head_dim" in known:
        options.pop("head_dim", None)
        options["num_key_value_heads"] = 4
    if kinds := list(dict.fromkeys(getattr(default, "layer_types", None) or ())):
        options["layer_types"] = [kinds[place % len(kinds)] for place in range(LAYERS)]
    own = CHANGES.get(name) or CHANGES.get(default.model_type, {})
    # A size may have two names; the one that the family gives is meant.
    names = getattr(type(default), "attribute_map", {})
    options = {key: value for key, value in options.items() if names.get(key) not in own}
    given = {
        key: value for key, value in (options | own | (changes or {})).items() if value is not None
    }
    try:
        config = type(default)(**given)
    except AttributeError:  # its types of layers follow from other settings
        given.pop("layer_types", None)
        config = type(default)(**given)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        config = whole(text_config=config)
    return config
