"""Checks of a job before any weight is read: its settings, its tokenizer, what a backbone takes."""

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from featurize.data.encoder import SampleEncoder
from featurize.data.plain_text import PlainText
from featurize.model.limits import (
    check_architecture,
    check_likelihood,
    check_positions,
    check_vocabulary,
)
from featurize.model.sharing import check_tensor_parallel
from featurize.model.source import BackboneSource, load_tokenizer
from featurize.model.weight_headers import check_weights
from featurize.run.job import FeaturizeJob


def check_job(job: FeaturizeJob) -> None:
    """Raise ValueError for settings that contradict each other, before anything is read."""
    _check_budget(job)
    if job.distributed.is_shared and job.backbone.quantization is not None:
        raise ValueError(
            f"models.policy.quantization {job.backbone.quantization!r} and a backbone shared among"
            " devices contradict; set it to null, or distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
        )
    if job.distributed.is_shared and job.backbone.weights == "random":
        raise ValueError(
            "models.policy.weights 'random' and a backbone shared among devices contradict: it is"
            " drawn as a whole; set distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
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
            " save_pretrained), or set distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
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
    num_suffix = _check_tokenizer(job, source, config)
    check_positions(config, backbone, job.dataset.max_length + num_suffix)
    _check_budget(job, num_suffix)
    return num_suffix


def _check_tokenizer(job: FeaturizeJob, source: BackboneSource, config: PreTrainedConfig) -> int:
    """Check the tokenizer, and the prompt's settings with it; return as `check_backbone`."""
    tokenizer = load_tokenizer(source, job.backbone)
    check_vocabulary(PlainText(tokenizer).largest_id(), config, job.backbone)
    if not job.prompt.identity:
        return 0
    return len(make_encoder(job, tokenizer).suffix.ids)


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
