"""Settings that have no effect, and settings that are probably a mistake."""

import logging

from configs.config import Config
from featurize.settings import FsdpSettings

logger = logging.getLogger(__name__)


def notes(config: Config) -> list[str]:
    """One line for each setting that is accepted but has no effect here."""
    return [*_distributed_notes(config), *_checkpoint_notes(config)]


def warn(config: Config) -> None:
    """Log settings that make results meaningless."""
    dataset = config.dataset
    if dataset.train is not None and dataset.train == dataset.validation:
        logger.warning(
            "dataset.validation is dataset.train: its numbers say nothing about new problems"
        )


def _distributed_notes(config: Config) -> list[str]:
    fsdp = config.distributed.fsdp
    if fsdp is None:
        return []
    if config.distributed.shard_backbone:
        lines = _sharding_notes(fsdp, config.models.policy.dtype)
    else:
        lines = [
            "distributed.fsdp is not read: distributed.shard_backbone is false, every device holds "
            "the whole backbone and the samples are shared out"
        ]
    if fsdp.activation_checkpointing:
        lines.append(
            "distributed.fsdp.activation_checkpointing does nothing: the backbone is frozen and "
            "has no backward pass"
        )
    return lines


def _sharding_notes(fsdp: FsdpSettings, dtype: str) -> list[str]:
    lines = []
    if fsdp.sharding_strategy == "NO_SHARD":
        lines.append(
            "distributed.fsdp.sharding_strategy NO_SHARD shards nothing: every device holds the "
            "whole backbone"
        )
    elif fsdp.sharding_strategy in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2"):
        lines.append(
            f"distributed.fsdp.sharding_strategy {fsdp.sharding_strategy} keeps what it gathered "
            "until a backward pass, and there is none: once it has run, every device holds the "
            "whole backbone (FULL_SHARD or HYBRID_SHARD free each layer after use)"
        )
    if dtype != "auto" and fsdp.mixed_precision == (dtype == "float32"):
        lines.append(
            f"distributed.fsdp.mixed_precision does nothing: models.policy.dtype is {dtype!r}"
        )
    return lines


def _checkpoint_notes(config: Config) -> list[str]:
    if config.checkpoint.s3_upload and not config.checkpoint.s3_uri:
        return [
            "nothing is uploaded: checkpoint.s3_upload is true but checkpoint.s3_uri is not set "
            "(set it, or the environment variable CRITIC_S3_URI)"
        ]
    return []
