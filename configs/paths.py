"""Where the files of a run lie: everything it writes is below `storage.root`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from configs.config import Config
from featurize.settings import to_split


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders of one experiment; making them is left to whoever writes into them."""

    models_dir: Path
    """Backbones."""

    datasets_dir: Path
    """Prepared datasets, a folder each."""

    features_root: Path | str
    """The feature stores of the experiment, a folder per split; text where it is a URI."""

    checkpoint_dir: Path
    """Heads of the experiment."""

    evaluation_dir: Path
    """Reports of the experiment."""

    audit_dir: Path
    """What audits of the experiment's dataset told, a folder a split."""

    cache_dir: Path
    """What can be made again: converted backbones."""

    mlruns_dir: Path
    """Local tracking database, shared by all experiments."""

    artifacts_dir: Path
    """Files logged to the local tracking database."""

    tracking_uri: str
    """Where runs are tracked: the server asked for, or the local database."""

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The layout `config` describes."""
        root = Path(config.storage.root)
        experiment = config.experiment.name
        mlruns_dir = root / "mlruns"
        return cls(
            models_dir=Path(config.storage.models_dir),
            datasets_dir=Path(config.storage.datasets_dir),
            features_root=_below(
                config.storage.features_dir, config.featurize.store_name or experiment
            ),
            checkpoint_dir=Path(config.checkpoint.save_dir),
            evaluation_dir=root / "evaluation" / experiment,
            audit_dir=root / "audit" / experiment,
            cache_dir=root / "cache",
            mlruns_dir=mlruns_dir,
            artifacts_dir=mlruns_dir / "artifacts",
            # A database and not a folder of files: MLflow 3 deprecates its file store.
            tracking_uri=config.mlflow.tracking_uri
            or f"sqlite:///{(mlruns_dir / 'mlflow.db').as_posix()}",
        )

    def features_dir(self, split: str) -> Path | str:
        """The feature store of `split`: train, valid (or validation), test; a folder or a URI."""
        return _below(self.features_root, to_split(split))

    def file_features_dir(self, content: str) -> Path | str:
        """The feature store of a file that is no split, named after what it holds."""
        return _below(self.features_root, f"data-{content}")

    def random_features_dir(self, split: str, fingerprint: str) -> Path | str:
        """The features of a random backbone for the samples of a store, named after that store."""
        folder = _below(self.features_root, "random-backbone")
        return _below(folder, f"{to_split(split)}-{fingerprint[:12]}")

    def random_checkpoint_dir(self, fingerprint: str) -> Path:
        """The head on those features, named after what it was made of."""
        return self.checkpoint_dir / "random-backbone" / fingerprint[:12]


def _below(folder: Path | str, name: str) -> Path | str:
    """A name in a folder or URI; a Path would make one slash of the two of a URI."""
    return f"{str(folder).rstrip('/')}/{name}" if "://" in str(folder) else Path(folder) / name
