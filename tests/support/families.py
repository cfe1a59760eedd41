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
from tests.support.family_sizes import CHANGES, LAYERS, SIZES

FAMILY_NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MAX_PARAMETERS = 9_000_000


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
