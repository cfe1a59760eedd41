"""What the commands of stage 2 work on: the stores and the tracker of a configuration."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.config import Config
    from configs.paths import Layout
    from featurize.data.index import DatasetIndex
    from featurize.data.records import Sample
    from featurize.store import FeatureStore
    from headtrain.evaluation.samples.texts import TextSource
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.tracking import MlflowTracker


def open_store(settings: "Config", layout: "Layout", split: str) -> "FeatureStore":
    """The features of a split, made as the configuration says."""
    from configs.provenance import refuse_other_recipe
    from featurize.store import FeatureStore

    store = FeatureStore.open(layout.features_dir(split), layout.cache_dir)
    refuse_other_recipe(settings, store.path, store.manifest.recipe)
    return store


def open_store_of(
    head: "TrainedHead", settings: "Config", layout: "Layout", split: str
) -> "FeatureStore":
    """The features of a split that a head can read: the configuration's, else those it records.

    A head of another recipe, such as of another backbone, names the folder its run used.
    """
    from featurize.store import FeatureStoreError

    wanted = head.record.recipe_fingerprint
    folders = _folders_of(head, layout, split)
    for store in _stores_in(folders, layout):
        if store.manifest.recipe_fingerprint == wanted:
            return store
    raise FeatureStoreError(
        f"{head.path} reads features of recipe {wanted}, which neither "
        f"{' nor '.join(map(str, folders))} holds; run `critic "
        f"featurize --split {split}` with the head's config"
    )


def open_train_store_of(head: "TrainedHead", layout: "Layout") -> "FeatureStore":
    """The very features the head was trained on, no others of their kind.

    Raises:
        FeatureStoreError: they are not where the configuration, or the head, says.
    """
    from featurize.store import FeatureStoreError

    folders = _folders_of(head, layout, "train")
    for store in _stores_in(folders, layout):
        if store.manifest.fingerprint == head.record.store_fingerprint:
            return store
    raise FeatureStoreError(
        f"the features {head.path} was trained on ({head.record.store_fingerprint}) are not in "
        f"{' nor in '.join(map(str, folders))}; run `critic featurize --split train` with the "
        "head's config"
    )


def _folders_of(head: "TrainedHead", layout: "Layout", split: str) -> "list[Path | str]":
    """Where a split's features may be: as configured, and as the head's run had it."""
    from pydantic import TypeAdapter, ValidationError

    from configs.config import Config
    from configs.paths import Layout

    folders = [layout.features_dir(split)]
    try:
        recorded = TypeAdapter(Config).validate_python(head.record.config)
        folders.append(Layout.from_config(recorded).features_dir(split))
    except ValidationError:  # written by another version; then only the configuration counts
        pass
    return list(dict.fromkeys(folders))


def _stores_in(folders: "Sequence[Path | str]", layout: "Layout") -> "Iterator[FeatureStore]":
    from featurize.store import FeatureStore, FeatureStoreError

    for folder in folders:
        try:
            yield FeatureStore.open(folder, layout.cache_dir)
        except FeatureStoreError:
            continue


def open_texts(
    settings: "Config", layout: "Layout", split: str, store: "FeatureStore"
) -> "TextSource":
    """The texts a store was made of, if its dataset is still there and still holds its samples."""
    from configs.terminal import one_line
    from featurize.data.index import DatasetIndex
    from headtrain.evaluation.samples.texts import TextSource

    try:
        index = DatasetIndex.build(settings.dataset.path_of(split), layout.cache_dir / "index")
    except (ValueError, OSError) as error:
        return TextSource(why_not=one_line(error).partition("\n")[0])
    return texts_of(index, store)


def texts_of(index: "DatasetIndex", store: "FeatureStore") -> "TextSource":
    """The texts of a store's samples, if the indexed files hold all of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from headtrain.evaluation.samples.texts import TextSource

    task_ids = index.table["task_id"].combine_chunks()
    num_gone = pc.sum(pc.invert(pc.is_in(store.samples["task_id"], value_set=task_ids))).as_py()
    if num_gone:
        return TextSource(
            why_not=f"the dataset lacks {num_gone:,} of the {store.samples.num_rows:,} samples; "
            "it is not the one the features were made of"
        )

    def read(wanted: Sequence[str]) -> "list[Sample]":
        rows = pc.index_in(pa.array(wanted, task_ids.type), value_set=task_ids)
        return index.read(np.asarray(rows, np.int64))

    return TextSource(read=read)


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
