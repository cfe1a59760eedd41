"""Features of a file that is not a split of a dataset, made by a head's own recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from featurize.data.index import DatasetIndex
from featurize.io.files import digest
from featurize.model.device import resolve_device
from featurize.run.job import FeaturizeJob
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    RuntimeSettings,
)
from featurize.store import FeatureStore
from headtrain.head.checkpoint import TrainedHead
from headtrain.scoring.provenance import Provenance


def plan_file(
    head: TrainedHead,
    index: DatasetIndex,
    *,
    places: Sequence[BackboneSettings],
    featurize: FeaturizeSettings,
    runtime: RuntimeSettings,
    distributed: DistributedSettings,
    store_of: Callable[[str], Path | str],
    cache_dir: Path,
    repair: bool = False,
    command: str = "",
) -> FeaturizeJob:
    """The job that makes features of an indexed file that a head can read.

    The settings given here say where things are and what computes; all else is the head's.

    Args:
        head: its record has the recipe of the features.
        index: the file's samples.
        places: where the head's backbone may be, most likely first.
        featurize: its workers, token budget and forward are used.
        runtime: its device and precision are used.
        distributed: how the backbone is spread over devices.
        store_of: gives the folder of a store by a digest of what it is made of.
        cache_dir: where converted backbones are kept.
        repair: check every finished unit first.
        command: what a person ran.

    Raises:
        ValueError: no backbone that is the head's.
    """
    provenance = Provenance.of(head)
    found = provenance.find(resolve_device(runtime.device), cache_dir, places)
    identity = {
        "dataset": index.content_fingerprint,
        "recipe": found.recipe.fingerprint,
        "unit_tokens": provenance.featurize.unit_tokens,
    }
    return FeaturizeJob(
        backbone=found.settings,
        dataset=DatasetSettings(
            name="data",
            test=tuple(source.path for source in index.sources),
            max_length=provenance.dataset.max_length,
            max_prompt_length=provenance.dataset.max_prompt_length,
        ),
        prompt=provenance.prompt,
        featurize=replace(
            provenance.featurize,
            workers=featurize.workers,
            token_budget=featurize.token_budget
            and max(featurize.token_budget, provenance.dataset.max_length),
            forward=featurize.forward,
        ),
        runtime=runtime,
        split="test",
        store_dir=store_of(digest(identity)[:12]),
        cache_dir=cache_dir,
        distributed=distributed,
        needs_labels=index.reader.needs_labels,
        repair=repair,
        command=command,
    )


def open_file_store(job: FeaturizeJob, index: DatasetIndex) -> FeatureStore:
    """The store of a finished job of `plan_file`; its rows are those of the index, in order."""
    store = FeatureStore.open(job.store_dir, job.cache_dir)
    found_ids, wanted_ids = (
        table["task_id"].combine_chunks() for table in (store.samples, index.table)
    )
    assert found_ids.equals(wanted_ids), "units are written in the order of the index"
    return store
