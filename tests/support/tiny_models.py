"""Tiny random language models and a small real tokenizer, saved as transformers folders."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCAB_SIZE = 320
NUM_LAYERS = 3
HIDDEN_SIZE = 32
SLIDING_WINDOW = 8

BOS, EOS = "<s>", "</s>"

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
KV_HEADS: dict[str, Any] = {"num_key_value_heads": 2}
HEAD_DIM: dict[str, Any] = {"head_dim": 8}

_TEXT = (
    "Below is an instruction that describes a task. Write a response.",
    "### Instruction:\nRead two numbers and print their sum.\n\n### Response:\n",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "for i in range(10):\n    if i % 2 == 0:\n        print(i)\n",
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The config of a tiny model of one architecture, and whether it can be packed."""

    config_class: type[PreTrainedConfig]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_packable: bool = True  # plainly causal, or with a sliding window

    def to_config(self, **changes: Any) -> PreTrainedConfig:
        return self.config_class(**{**SIZES, **self.options, **changes})


FAMILIES: dict[str, Family] = {
    "llama": Family(config_class=LlamaConfig, options=KV_HEADS),
    "qwen2": Family(config_class=Qwen2Config, options=KV_HEADS),
    "qwen3": Family(config_class=Qwen3Config, options=KV_HEADS | HEAD_DIM),
    "mistral": Family(config_class=MistralConfig, options=KV_HEADS | {"sliding_window": None}),
    "gemma": Family(config_class=GemmaConfig, options=KV_HEADS | HEAD_DIM),
    "gemma3": Family(
        config_class=Gemma3TextConfig,
        options=KV_HEADS
        | HEAD_DIM
        | {
            "sliding_window": SLIDING_WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt_neox": Family(config_class=GPTNeoXConfig),
    "cohere": Family(config_class=CohereConfig, options=KV_HEADS | {"logit_scale": 0.25}),
    "granite": Family(
        config_class=GraniteConfig,
        options=KV_HEADS
        | {
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
        },
    ),
    "deepseek": Family(
        config_class=DeepseekV3Config,
        options={
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,  # narrower than queries and keys
            "first_k_dense_replace": NUM_LAYERS,
        },
    ),
    "gemma2": Family(
        config_class=Gemma2Config,
        options=KV_HEADS
        | HEAD_DIM
        | {
            "sliding_window": SLIDING_WINDOW,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
        is_packable=False,
    ),
    "gpt_oss": Family(
        config_class=GptOssConfig,
        options=KV_HEADS
        | HEAD_DIM
        | {
            "sliding_window": SLIDING_WINDOW,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        is_packable=False,
    ),
    "bloom": Family(config_class=BloomConfig, is_packable=False),
}
"""Soft capping (Gemma 2), attention sinks (gpt-oss) and ALiBi (Bloom) need the padded forward."""

PACKABLE = [name for name, family in FAMILIES.items() if family.is_packable]


def make_model(family: str = "llama", *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """Make a random model of a family in float32 whose weights depend on `seed` alone.

    NOTE: matrices preserve the scale of their input, and norms are not all ones. With transformers'
    own initialisation (0.02), attention is almost uniform and would hide a wrong mask.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        FAMILIES[family].to_config(**config), dtype=torch.float32
    )
    draw_weights(model, seed)
    model.eval().requires_grad_(False)
    return model


@torch.no_grad()
def draw_weights(model: PreTrainedModel, seed: int = 0) -> None:
    """Draw the weights of a model anew."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2:
            weight.add_(0.2 * noise)
        elif any(part in name for part in ("embed", "wte", "wpe")):
            weight.copy_(noise)
        else:
            weight.copy_(1.5 * noise / weight.shape[-1] ** 0.5)


def make_tokenizer(
    texts: Iterable[str] = _TEXT, vocab_size: int = VOCAB_SIZE, *, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def write_tiny_model(
    folder: Path, family: str = "llama", *, adds_bos: bool = False, seed: int = 0, **config: Any
) -> Path:
    """Save a random model of a family with its tokenizer; return `folder`."""
    make_model(family, seed=seed, **config).save_pretrained(folder)
    make_tokenizer(adds_bos=adds_bos).save_pretrained(folder)
    return folder


def write_tiny_llama(folder: Path, *, adds_bos: bool = False, seed: int = 0, **config: Any) -> Path:
    """Save a random LLaMA (hidden 32, 3 layers, 4 heads, 2 kv heads) with its tokenizer."""
    return write_tiny_model(folder, "llama", adds_bos=adds_bos, seed=seed, **config)
