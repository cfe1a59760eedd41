"""What a feature depends on, and the fingerprint that tells different recipes apart."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from featurize.data.chat import template_text
from featurize.data.encoder import SampleEncoder
from featurize.data.plain_text import PlainText
from featurize.data.prompt import template_digest
from featurize.io.files import digest
from featurize.model.backbone import resolve_layers
from featurize.model.forward import FeatureSpec
from featurize.model.limits import (
    check_architecture,
    check_likelihood,
    check_positions,
    check_vocabulary,
    check_weights,
)
from featurize.model.pooling import POOLINGS
from featurize.model.sharing import check_tensor_parallel
from featurize.model.source import BackboneSource, load_tokenizer, read_backbone_config
from featurize.run.job import FeaturizeJob
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
    prompt: PromptSettings,
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


# --- what is checked before any weight is read

_NOT_SHARED = "distributed.shard_backbone to false and distributed.tensor_parallel_size to 1"


def check_job(job: FeaturizeJob) -> None:
    """Raise ValueError for settings that contradict each other, before anything is read."""
    _check_budget(job)
    if job.distributed.is_shared and job.backbone.quantization is not None:
        raise ValueError(
            f"models.policy.quantization {job.backbone.quantization!r} and a backbone shared among"
            f" devices contradict; set it to null, or {_NOT_SHARED}"
        )
    if job.distributed.is_shared and job.backbone.weights == "random":
        raise ValueError(
            "models.policy.weights 'random' and a backbone shared among devices contradict: it is"
            f" drawn as a whole; set {_NOT_SHARED}"
        )


def _check_budget(job: FeaturizeJob, num_suffix: int = 0) -> None:
    """Raise ValueError if the longest sample does not fit into the budget that is asked for."""
    asked, longest = job.featurize.token_budget, job.dataset.max_length + num_suffix
    if asked is not None and asked < longest:
        more = f" and the {num_suffix} tokens after an output" if num_suffix else ""
        raise ValueError(
            f"featurize.token_budget {asked} is below dataset.max_length"
            f" {job.dataset.max_length}{more}: the longest sample would not fit; raise it"
        )


def refuse_shared_adapter(job: FeaturizeJob, source: BackboneSource) -> None:
    """Raise ValueError for an adapter that no device could merge into its part of the model."""
    if source.adapter is not None and job.distributed.is_shared:
        raise ValueError(
            f"{source.adapter.config} describes an adapter, and a backbone shared among devices is"
            " never whole on one of them; merge it first (peft's merge_and_unload, then"
            f" save_pretrained), or set {_NOT_SHARED}"
        )


def check_backbone(job: FeaturizeJob, source: BackboneSource, config: PreTrainedConfig) -> int:
    """Check what the backbone can take, before any weight is read.

    Returns the number of tokens that follow each output.

    Raises:
        ValueError: the settings ask for what the backbone or its tokenizer cannot do.
    """
    backbone = job.backbone
    check_tensor_parallel(config, job.distributed.tensor_parallel_size)
    check_architecture(config, backbone)
    check_weights(source.folder, config, backbone)
    if job.featurize.likelihood or job.prompt.question is not None:
        check_likelihood(config, backbone)
    tokenizer = load_tokenizer(source, backbone)
    check_vocabulary(PlainText(tokenizer).largest_id(), config, backbone)
    num_suffix = len(make_encoder(job, tokenizer).suffix.ids) if job.prompt.identity else 0
    check_positions(config, backbone, job.dataset.max_length + num_suffix)
    _check_budget(job, num_suffix)
    return num_suffix


def make_encoder(job: FeaturizeJob, tokenizer: PreTrainedTokenizerBase) -> SampleEncoder:
    """The encoder of a job.

    Raises:
        CriticError: the tokenizer cannot do what the settings of the prompt ask.
    """
    return SampleEncoder(
        job.prompt,
        tokenizer,
        max_length=job.dataset.max_length,
        max_prompt_length=job.dataset.prompt_limit,
    )
