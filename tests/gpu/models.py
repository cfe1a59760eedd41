"""Backbones of real sizes without a download: random weights drawn on the device itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from featurize.model import source as sources
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.families.family import LoadOptions
from featurize.model.families.hf import HuggingFace
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.model.source import find_backbone
from featurize.settings import BackboneSettings, Pooling

VOCAB_OF_TEXTS = 8192
"""Tokens of the tokenizer that is trained here, of any model's larger vocabulary."""


def _shape(width: int, mlp: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _shape(64, 128, 2, 4, 2, 2048),
    "135M": _shape(576, 1536, 30, 9, 3, 49152) | {"tie_word_embeddings": True},
    "1B": _shape(2048, 8192, 16, 32, 8, 128256) | {"tie_word_embeddings": True},
    "7B": _shape(4096, 11008, 32, 32, 32, 32000),
}
"""The sizes of SmolLM2-135M, Llama 3.2 1B and Llama 2 7B; `tiny` for a CPU."""


class DrawnOnDevice(HuggingFace):
    """Reads config.json and draws the weights on the device; all else is as for any model."""

    def __init__(self, embedding_scale: float = 1.0) -> None:
        self.embedding_scale = embedding_scale

    def claims(self, path: Path) -> bool:
        """Accept any folder."""
        return True

    def load_model(
        self, folder: Path, settings: BackboneSettings, options: LoadOptions
    ) -> PreTrainedModel:
        """Draw the model; a layer's number format and place are those of the options."""
        config = cast(LlamaConfig, self.read_config(folder, settings))
        model = draw_llama(config, options.device, options.dtype, self.embedding_scale)
        return model if options.with_lm_head else cast(PreTrainedModel, model.base_model)


def draw_llama(
    config: LlamaConfig, device: torch.device, dtype: torch.dtype, embedding_scale: float = 1.0
) -> PreTrainedModel:
    """Make a model on the meta device, then on its own, then draw its weights.

    At these scales attention is not uniform, so that a wrong mask shows, and rounding in 16 bits is
    not amplified from layer to layer.
    """
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                scale = embedding_scale if "embed" in name else _deviation(name, parameter)
                parameter.normal_(0.0, scale, generator=generator)
        # Logits of deviation 2, as a trained model has them.
        model.model.norm.weight.fill_(2.0 * config.hidden_size**-0.5)
    # The inverse frequencies are no parameters: after to_empty they have no values.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    return model.eval()


def _deviation(name: str, matrix: torch.Tensor) -> float:
    """Standard deviation of a matrix's weights: preserves the input's scale, or lowers it."""
    if "lm_head" in name:
        return 1.0
    gain = 1.0 if "q_proj" in name or "k_proj" in name else 0.7
    return gain * matrix.shape[-1] ** -0.5


def write_config(folder: Path, shape: str, **changes: Any) -> Path:
    """Write the config.json of a shape; returns the folder."""
    config = LlamaConfig(**{**SHAPES[shape], "max_position_embeddings": 65536, **changes})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def load_drawn(
    folder: Path, device: torch.device, dtype: torch.dtype, *, is_plain: bool = False
) -> Backbone:
    """Load the whole backbone of a folder with `load_backbone`, its weights drawn."""
    settings = BackboneSettings(name="drawn", path=str(folder))
    source = replace(find_backbone(settings, folder, dtype), family=DrawnOnDevice())
    return load_backbone(
        source,
        settings,
        device=device,
        dtype=dtype,
        deepest_layer=10**6,
        with_lm_head=True,
        is_plain=is_plain,
    )


@contextmanager
def drawn_weights(embedding_scale: float = 1.0) -> Iterator[None]:
    """Let jobs of this process draw the weights of every model folder."""
    family = DrawnOnDevice(embedding_scale)
    with mock.patch.object(sources, "FAMILIES", (family,)):
        yield


def features_of(
    backbone: Backbone, *, likelihood: bool, poolings: Sequence[Pooling] = ("mean",)
) -> FeatureSpec:
    """Features of the last layer."""
    layers = (backbone.num_layers,)
    return FeatureSpec(layers=layers, poolings=tuple(poolings), likelihood=likelihood)


def on_meta(config: LlamaConfig) -> LlamaModel:
    """The decoder of a config without weights, to count them: a CPU's own blocks hide theirs."""
    with torch.device("meta"):
        return LlamaModel(config)


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a backbone over groups, each prompt computed once."""

    blocks: float
    attention: float
    logits: float

    @property
    def total(self) -> float:
        """Of one forward pass."""
        return self.blocks + self.attention + self.logits


def count_work(backbone: Backbone, groups: Sequence[PromptGroup], *, likelihood: bool) -> Work:
    """Count 2 operations per weight and token, and 4 per head, channel and pair of tokens.

    Padding and prompts that are computed again are no useful work and are not counted.
    """
    config = backbone.decoder.config
    layers = on_meta(config).layers
    weights = sum(parameter.numel() for parameter in layers.parameters())
    tokens = sum(group.num_tokens for group in groups)
    outputs = [(len(group.prompt), len(out)) for group in groups for out in group.outputs]
    pairs = sum(len(group.prompt) * (len(group.prompt) + 1) / 2 for group in groups)
    pairs += sum(length * prompt + length * (length + 1) / 2 for prompt, length in outputs)
    width = config.num_attention_heads * config.head_dim
    output_tokens = sum(length for _, length in outputs) if likelihood else 0
    return Work(
        blocks=2.0 * weights * tokens,
        attention=4.0 * width * pairs * len(layers),
        logits=2.0 * backbone.hidden_size * config.vocab_size * output_tokens,
    )
