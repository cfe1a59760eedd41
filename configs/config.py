"""The whole configuration of a run: one frozen section for each part of the YAML."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from featurize.data.prepare.settings import PrepareSettings
from featurize.settings import (
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    ModelsSettings,
    PromptSettings,
    RuntimeSettings,
    to_folder_name,
)
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    MlflowSettings,
    TrainingSettings,
    WandbSettings,
)

_STRICT_KEYS = ConfigDict(extra="forbid")

LocalFolder = Annotated[str, Field(min_length=1)]


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

    name: str
    """Names the folders of features, checkpoints and reports."""

    description: str = ""
    """One sentence, shown by the tracking server."""

    stage: Literal["critic"] = "critic"
    """Stage of the larger project; only the critic is here."""

    tags: tuple[str, ...] = ()
    """Search terms for the run."""

    @field_validator("name")
    @classmethod
    def _refuse_unsafe_name(cls, name: str) -> str:
        return to_folder_name(name)


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class StorageSettings:
    """Folders that a run reads and writes."""

    root: LocalFolder
    """Folder under which a run writes."""

    models_dir: LocalFolder
    """Folder of the backbones."""

    datasets_dir: LocalFolder
    """Folder of the prepared datasets."""

    checkpoints_dir: LocalFolder
    """Folder of the heads."""

    features_dir: Annotated[str, Field(min_length=1)]
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
