"""What a feature depends on, and the fingerprint that keeps features of different makes apart."""

from dataclasses import dataclass
from typing import Any

import torch

from featurize.data.chat_template import template_text
from featurize.data.prompt import template_digest
from featurize.io.files import digest
from featurize.model.backbone import resolve_layers
from featurize.model.forward import FeatureSpec
from featurize.model.pooling import POOLINGS
from featurize.model.source import BackboneSource, load_tokenizer, read_backbone_config
from featurize.settings import BackboneSettings, DatasetSettings, FeaturizeSettings, PromptSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a feature but the dataset.

    World size, batch sizes and the order of the file are not in it: the result does not depend on
    them.
    """

    spec: FeatureSpec
    num_layers: int
    hidden_size: int
    compute_dtype: torch.dtype
    storage_dtype: torch.dtype
    fields: dict[str, Any]  # JSON, as the manifest shows it

    @property
    def prompt(self) -> dict[str, Any]:
        """What token ids depend on besides the tokenizer; empty for the default settings."""
        found: dict[str, Any] = self.fields.get("prompt", {})
        return found

    @property
    def fingerprint(self) -> str:
        """Equal for every store a head may be used on; the backbone's name is only a name."""
        backbone = {key: value for key, value in self.fields["backbone"].items() if key != "name"}
        return digest({**self.fields, "backbone": backbone})


def describe_prompt(
    prompt: PromptSettings, source: BackboneSource, backbone: BackboneSettings
) -> dict[str, Any]:
    """All that token ids depend on besides the tokenizer; empty for the default settings.

    Raises:
        CriticError: the tokenizer has no chat template, or cannot be read.
    """
    if not prompt.has_turns:
        return prompt.identity
    text = template_text(prompt, load_tokenizer(source, backbone))
    return {**prompt.identity, "template": digest(text)}


def make_recipe(
    source: BackboneSource,
    backbone: BackboneSettings,
    dataset: DatasetSettings,
    featurize: FeaturizeSettings,
    compute_dtype: torch.dtype,
    device: torch.device,
    prompt: PromptSettings = PromptSettings(),  # noqa: B008 (frozen)
) -> Recipe:
    """The recipe the settings ask for.

    Features do not depend on `device` but by rounding, except where weights are drawn there.

    Raises:
        ValueError: a layer the backbone does not have, or a tokenizer without a chat template.
    """
    config = read_backbone_config(source, backbone)
    num_layers, hidden_size = int(config.num_hidden_layers), int(config.hidden_size)
    spec = FeatureSpec(
        layers=tuple(resolve_layers(featurize.layers, num_layers)),
        poolings=tuple(featurize.poolings),
        likelihood=featurize.likelihood,
        segments=featurize.segments,
        question=prompt.question is not None,
    )
    fields = {
        "backbone": {"name": backbone.name, "digest": source.digest, "layers": num_layers},
        "mtp_output": source.family.output_of(backbone),
        "quantization": backbone.quantization,
        "tokenizer": source.tokenizer_digest,
        "template": template_digest(),
        "max_length": dataset.max_length,
        "max_prompt_length": dataset.prompt_limit,
        "layers": list(spec.layers),
        "poolings": [pooling for pooling in POOLINGS if pooling in spec.poolings],
        "likelihood": spec.likelihood,
        "compute_dtype": str(compute_dtype).removeprefix("torch."),
        "storage_dtype": featurize.storage_dtype,
    }
    if spec.segments is not None:  # NOTE: only then, as below
        fields["segments"] = spec.segments
    if backbone.weights != "pretrained":
        # NOTE: only then, so that the features of every other backbone keep their fingerprint.
        fields["weights"] = backbone.weights
        if device.type != "cpu":
            fields["drawn_on"] = device.type  # whose generator gives other numbers
    if prompt.identity:
        fields["prompt"] = describe_prompt(prompt, source, backbone)
    return Recipe(
        spec=spec,
        num_layers=num_layers,
        hidden_size=hidden_size,
        compute_dtype=compute_dtype,
        storage_dtype=getattr(torch, featurize.storage_dtype),
        fields=fields,
    )
