"""Paths of the files of a run; everything it writes is below `storage.root`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from configs.config import Config
from featurize.settings import to_split


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Folders of one experiment; nothing is created here."""

    models_dir: Path
    """Backbones."""

    datasets_dir: Path
    """Prepared datasets, one folder each."""

    features_root: Path | str
    """Feature stores of the experiment, one folder per split; a string if it is a URI."""

    checkpoint_dir: Path
    """Heads of the experiment."""

    evaluation_dir: Path
    """Reports of the experiment."""

    audit_dir: Path
    """Audits of the experiment's dataset, one folder per split."""

    cache_dir: Path
    """Files that can be made again, such as converted backbones."""

    mlruns_dir: Path
    """Local tracking database, shared by all experiments."""

    artifacts_dir: Path
    """Files logged to the local tracking database."""

    tracking_uri: str
    """The configured tracking server, that of MLFLOW_TRACKING_URI, or the local database."""

    is_tracked_locally: bool = False
    """Whether that is the local database."""

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The layout `config` describes."""
        root = Path(config.storage.root)
        experiment = config.experiment.name
        mlruns_dir = root / "mlruns"
        server = _with_home(config.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
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
            tracking_uri=server or f"sqlite:///{(mlruns_dir / 'mlflow.db').as_posix()}",
            is_tracked_locally=not server,
        )

    def features_dir(self, split: str) -> Path | str:
        """The feature store of `split`: train, valid (or validation), test; a folder or a URI."""
        return _below(self.features_root, to_split(split))

    def file_features_dir(self, content: str) -> Path | str:
        """The feature store of a file that is not a split, named by a digest."""
        return _below(self.features_root, f"data-{content}")

    def random_features_dir(self, split: str, fingerprint: str) -> Path | str:
        """Features of a random backbone for the samples of a store, named by its fingerprint."""
        folder = _below(self.features_root, "random-backbone")
        return _below(folder, f"{to_split(split)}-{fingerprint[:12]}")

    def random_checkpoint_dir(self, fingerprint: str) -> Path:
        """The head on those features, named by a digest."""
        return self.checkpoint_dir / "random-backbone" / fingerprint[:12]


def _with_home(uri: str) -> str:
    """Replace the `~` of a database's file, sqlite:///~/mlflow.db; no one else would."""
    scheme, slashes, path = uri.partition(":///")
    return f"{scheme}{slashes}{Path(path).expanduser()}" if path.startswith("~") else uri


def _below(folder: Path | str, name: str) -> Path | str:
    """Join a name to a folder or URI; a Path would merge the slashes of a URI."""
    return f"{str(folder).rstrip('/')}/{name}" if "://" in str(folder) else Path(folder) / name
