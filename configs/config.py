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
    RuntimeSettings,
    to_folder_name,
)
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    EvaluationSettings,
    MlflowSettings,
    TrainingSettings,
)

_STRICT_KEYS = ConfigDict(extra="forbid")

LocalFolder = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class ProjectSettings:
    """What the run belongs to."""

    name: str = "critic"
    """Name of the project, logged with every run."""

    version: str = "0.1.0"
    """Version of the project, logged with every run."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class ExperimentSettings:
    """What the run tries."""

    name: str
    """Names the folders of features, checkpoints and reports."""

    description: str = ""
    """One sentence for whoever reads the tracking server."""

    stage: Literal["critic"] = "critic"
    """The stage of the larger project this is; only the critic's is here."""

    tags: tuple[str, ...] = ()
    """Words to find the run by."""

    @field_validator("name")
    @classmethod
    def _refuse_unsafe_name(cls, name: str) -> str:
        return to_folder_name(name)


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class StorageSettings:
    """Where everything lies that a run reads or writes."""

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
    """What is said while a run goes on."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """Least important message that is shown."""

    format: str = "%(asctime)s [%(levelname)s] [%(name)s] %(message)s"
    """Layout of a line, as Python's logging has it."""


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class Config:
    """Every setting of a run, checked."""

    project: ProjectSettings = field(default_factory=ProjectSettings)
    """What the run belongs to."""

    experiment: ExperimentSettings
    """What the run tries."""

    models: ModelsSettings
    """The frozen backbone."""

    dataset: DatasetSettings
    """The samples."""

    data_sampling: DataSamplingSettings = field(default_factory=DataSamplingSettings)
    """Which pairs are drawn from them."""

    featurize: FeaturizeSettings = field(default_factory=FeaturizeSettings)
    """What is stored of the backbone."""

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    """How datasets are made."""

    training: TrainingSettings = field(default_factory=TrainingSettings)
    """The value head and its training."""

    checkpoint: CheckpointSettings
    """Which heads are kept."""

    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How sure an evaluation says it is."""

    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    """What the run computes on."""

    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    """How the backbone lies on the devices."""

    storage: StorageSettings
    """Where everything lies."""

    mlflow: MlflowSettings = field(default_factory=MlflowSettings)
    """Where runs are tracked."""

    logging: LoggingSettings = field(default_factory=LoggingSettings)
    """What is said while a run goes on."""

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
