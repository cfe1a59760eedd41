"""The whole configuration of a run: a frozen section for each part of the YAML, and its folders."""

import logging
import os
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from featurize.data.prepare.settings import PrepareSettings
from featurize.settings import (
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    FolderName,
    FsdpSettings,
    ModelsSettings,
    PromptSettings,
    RuntimeSettings,
    SomePath,
    to_split,
)
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    MlflowSettings,
    TrainingSettings,
    WandbSettings,
)

logger = logging.getLogger(__name__)

_STRICT_KEYS = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class ProjectSettings:
    """The project of the run."""

    name: str = "critic"
    """Name of the project, logged with every run."""

    version: str = "0.1.0"
    """Version of the project, logged with every run."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class ExperimentSettings:
    """The experiment of the run."""

    name: FolderName
    """Names the folders of features, checkpoints and reports."""

    description: str = ""
    """One sentence, shown by the tracking server."""

    stage: Literal["critic"] = "critic"
    """Stage of the larger project; only the critic is here."""

    tags: tuple[str, ...] = ()
    """Search terms for the run."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class StorageSettings:
    """Folders that a run reads and writes."""

    root: SomePath
    """Folder under which a run writes."""

    models_dir: SomePath
    """Folder of the backbones."""

    datasets_dir: SomePath
    """Folder of the prepared datasets."""

    checkpoints_dir: SomePath
    """Folder of the heads."""

    features_dir: SomePath
    """Folder of the feature stores, or any URI fsspec knows."""

    def __post_init__(self) -> None:
        for key in ("root", "models_dir", "datasets_dir", "checkpoints_dir"):
            folder = getattr(self, key)
            # Only the first: the others usually follow from root.
            if "://" in folder:
                raise ValueError(f"{key} {folder!r} is not a local folder; name one")


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class LoggingSettings:
    """Log messages of a run."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """Lowest level that is shown."""

    format: str = "%(asctime)s [%(levelname)s] [%(name)s] %(message)s"
    """Format of a line, as in Python's logging."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class Config:
    """All settings of a run, validated."""

    project: ProjectSettings = field(default_factory=ProjectSettings)
    """The project of the run."""

    experiment: ExperimentSettings
    """The experiment of the run."""

    models: ModelsSettings
    """The frozen backbone."""

    dataset: DatasetSettings
    """The samples."""

    prompt: PromptSettings = field(default_factory=PromptSettings)
    """The text around statements and outputs."""

    data_sampling: DataSamplingSettings = field(default_factory=DataSamplingSettings)
    """Which pairs are sampled from them."""

    featurize: FeaturizeSettings = field(default_factory=FeaturizeSettings)
    """The features to store."""

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    """How datasets are made."""

    training: TrainingSettings = field(default_factory=TrainingSettings)
    """The value head and its training."""

    checkpoint: CheckpointSettings
    """Which heads are kept."""

    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """Intervals and limits of evaluations."""

    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    """What the run computes on."""

    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    """How the backbone is spread over devices."""

    storage: StorageSettings
    """Folders of files."""

    mlflow: MlflowSettings = field(default_factory=MlflowSettings)
    """Where runs are tracked."""

    wandb: WandbSettings = field(default_factory=WandbSettings)
    """Weights & Biases, which runs are logged to as well."""

    logging: LoggingSettings = field(default_factory=LoggingSettings)
    """Log messages of a run."""

    def __post_init__(self) -> None:
        if self.training.likelihood and not self.featurize.likelihood:
            raise ValueError(
                "training.likelihood true and featurize.likelihood false contradict: the head "
                "would read what is not stored; set featurize.likelihood to true"
            )
        if "://" in self.checkpoint.save_dir:
            raise ValueError(
                f"checkpoint.save_dir {self.checkpoint.save_dir!r} is not a local folder; name "
                "one, and the place of the copies in checkpoint.s3_uri"
            )


class Layout:
    """Folders and addresses of one experiment; nothing is created here."""

    def __init__(self, config: Config) -> None:
        root, experiment = Path(config.storage.root), config.experiment.name
        store = config.featurize.store_name or experiment
        self.datasets_dir = Path(config.storage.datasets_dir)  # a folder for each
        self.checkpoint_dir = Path(config.checkpoint.save_dir)
        self.evaluation_dir = root / "evaluation" / experiment
        self.audit_dir = root / "audit" / experiment  # a folder per split
        self.cache_dir = root / "cache"  # what can be made again, such as converted backbones
        self.mlruns_dir = root / "mlruns"  # the local tracking database of all experiments
        self._features_root = _below(config.storage.features_dir, store)
        server = config.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.is_tracked_locally = not server
        # A database and not a folder of files: MLflow 3 deprecates its file store.
        local = f"sqlite:///{(self.mlruns_dir / 'mlflow.db').as_posix()}"
        self.tracking_uri = _with_home(server) or local

    def features_dir(self, split: str) -> Path | str:
        """The feature store of `split`: train, valid (or validation), test; a folder or a URI."""
        return _below(self._features_root, to_split(split))

    def file_features_dir(self, content: str) -> Path | str:
        """The feature store of a file that is not a split, named by a digest."""
        return _below(self._features_root, f"data-{content}")

    def random_features_dir(self, split: str, fingerprint: str) -> Path | str:
        """Features of a random backbone for the samples of a store, named by its fingerprint."""
        folder = _below(self._features_root, "random-backbone")
        return _below(folder, f"{to_split(split)}-{fingerprint[:12]}")

    def random_checkpoint_dir(self, fingerprint: str) -> Path:
        """The head on those features, named by a digest."""
        return self.checkpoint_dir / "random-backbone" / fingerprint[:12]


def _with_home(uri: str) -> str:
    """Replace the `~` of a database's file, sqlite:///~/mlflow.db, which SQLAlchemy keeps."""
    scheme, slashes, path = uri.partition(":///")
    return f"{scheme}{slashes}{Path(path).expanduser()}" if path.startswith("~") else uri


def _below(folder: Path | str, name: str) -> Path | str:
    """Join a name to a folder or URI; a Path would merge the slashes of a URI."""
    return f"{str(folder).rstrip('/')}/{name}" if "://" in str(folder) else Path(folder) / name


def notes(config: Config) -> list[str]:
    """One line for each setting that is accepted but has no effect here."""
    fsdp, dtype = config.distributed.fsdp, config.models.policy.dtype
    lines = [] if fsdp is None else _sharding_notes(fsdp, dtype, config.distributed.shard_backbone)
    if config.checkpoint.s3_upload and not config.checkpoint.s3_uri:
        lines.append(
            "nothing is uploaded: checkpoint.s3_upload is true but checkpoint.s3_uri is not set "
            "(set it, or the environment variable CRITIC_S3_URI)"
        )
    return lines


def _sharding_notes(fsdp: FsdpSettings, dtype: str, is_sharded: bool) -> list[str]:
    strategy = fsdp.sharding_strategy
    keeps_all = strategy in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2")
    is_dtype_named = dtype != "auto" and fsdp.mixed_precision == (dtype == "float32")
    found = {
        "is not read: distributed.shard_backbone is false, every device holds the whole backbone "
        "and the samples are shared out": not is_sharded,
        ".sharding_strategy NO_SHARD shards nothing: every device holds the whole backbone": (
            is_sharded and strategy == "NO_SHARD"
        ),
        f".sharding_strategy {strategy} keeps what it gathered until a backward pass, and there is "
        "none: once it has run, every device holds the whole backbone (FULL_SHARD or HYBRID_SHARD "
        "free each layer after use)": is_sharded and keeps_all,
        f".mixed_precision does nothing: models.policy.dtype is {dtype!r}": (
            is_sharded and is_dtype_named
        ),
        ".activation_checkpointing does nothing: the backbone is frozen and has no backward pass": (
            fsdp.activation_checkpointing
        ),
    }
    lines = [text for text, is_so in found.items() if is_so]
    return [f"distributed.fsdp{'' if text.startswith('.') else ' '}{text}" for text in lines]


def warn(config: Config) -> None:
    """Log settings that make results meaningless."""
    dataset = config.dataset
    if dataset.train is not None and dataset.train == dataset.validation:
        logger.warning(
            "dataset.validation is dataset.train: its numbers say nothing about new problems"
        )
