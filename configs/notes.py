"""What a configuration asks for that will have no effect, each in one line."""

from configs.config import Config


def notes(config: Config) -> list[str]:
    """One line for each setting that is accepted but does nothing, or not what it seems to."""
    return [*_distributed_notes(config), *_checkpoint_notes(config), *_dataset_notes(config)]


def _distributed_notes(config: Config) -> list[str]:
    fsdp = config.distributed.fsdp
    if fsdp is None:
        return []
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


def _checkpoint_notes(config: Config) -> list[str]:
    if config.checkpoint.s3_upload and not config.checkpoint.s3_uri:
        return [
            "nothing is uploaded: checkpoint.s3_upload is true but checkpoint.s3_uri is not set "
            "(set it, or the environment variable CRITIC_S3_URI)"
        ]
    return []


def _dataset_notes(config: Config) -> list[str]:
    dataset = config.dataset
    if dataset.train is not None and dataset.train == dataset.validation:
        return ["dataset.validation is dataset.train: its numbers say nothing about new problems"]
    return []
