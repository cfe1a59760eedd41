"""What the commands of stage 2 work on: the stores and the tracker of a configuration."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.config import Config
    from configs.layout import Layout
    from featurize.store import FeatureStore
    from headtrain.tracking import MlflowTracker


def open_store(settings: "Config", layout: "Layout", split: str) -> "FeatureStore":
    """The features of a split, made as the configuration says."""
    from configs.provenance import refuse_other_recipe
    from featurize.store import FeatureStore

    store = FeatureStore.open(layout.features_dir(split))
    refuse_other_recipe(settings, store.path, store.manifest.recipe)
    return store


def make_tracker(settings: "Config", layout: "Layout") -> "MlflowTracker":
    """The tracking server of a configuration, or the local database."""
    from headtrain.tracking import MlflowTracker

    layout.mlruns_dir.mkdir(parents=True, exist_ok=True)
    is_local = not settings.mlflow.tracking_uri
    return MlflowTracker(
        layout.tracking_uri,
        settings.mlflow.experiment,
        artifact_root=layout.artifacts_dir if is_local else None,
        run_name=settings.experiment.name,
        tags={"stage": settings.experiment.stage, **dict.fromkeys(settings.experiment.tags, "")},
    )
