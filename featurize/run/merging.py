"""Merge stores of one recipe, so that a head is trained on several datasets without another pass.

The files of a unit are written again as they are in its store; only the units' numbers change.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import digest
from featurize.io.lock import sole_writer
from featurize.io.remote import is_remote
from featurize.run.job import FeaturizeJob, FeaturizeSummary
from featurize.run.launch import remove_store
from featurize.run.units import sum_counts
from featurize.store import FeatureStore
from featurize.store.manifest import lost_files, read_manifest
from featurize.store.samples import PAIRS_COLUMN, STATEMENT_COLUMN
from featurize.store.writer import UnitFeatures, open_writer

ONLY_IN_SOME = {STATEMENT_COLUMN: pa.int32(), "author": pa.string()}
"""Columns that a store may lack."""


def merge_features(
    job: FeaturizeJob,
    stores: Sequence[FeatureStore],
    progress: Callable[[int, int], None] | None = None,
    *,
    overwrite: bool = False,
) -> FeaturizeSummary:
    """Write the samples and features of several stores as one.

    Units that an earlier run has finished are kept.

    Args:
        job: where the store goes; nothing else of it is used.
        stores: two or more of one recipe, in the order of the merged samples.
        progress: gets the number of units that are done, and of all.
        overwrite: delete the store that is there.

    Raises:
        FeatureStoreError: stores of different recipes or tensors, of planned pairs, or that share
            a problem or sample; or the folder has another store.
    """
    started = time.monotonic()
    if len(stores) < 2:
        raise FeatureStoreError(
            f"{stores[0].path}: nothing to merge it with; name two stores or more"
        )
    _check_recipes(stores)
    _check_samples(stores)
    fields = _plan(job, stores)
    _refuse_target(job, stores)
    finished = None if overwrite or job.repair else read_manifest(job.store_dir)
    if (
        finished is not None
        and finished.fingerprint == fields["fingerprint"]
        and not lost_files(job.store_dir, finished)
    ):
        return _summary(job, finished.counts, len(finished.units), started, was_up_to_date=True)
    if overwrite:
        remove_store(job)
    with sole_writer(job.writing_dir):
        writer = open_writer(job.store_dir, fields, job.writing_dir, is_thorough=job.repair)
        writer.begin()
        kept = writer.finished_units()
        if len(kept) < fields["num_units"]:
            writer.withdraw()
        for number, (features, counts) in enumerate(_all_units(stores, set(kept))):
            if features is not None:
                writer.write_unit(number, features, counts)
            if progress is not None:
                progress(number + 1, fields["num_units"])
        manifest = writer.finish(sum_counts([store.manifest.counts for store in stores]))
    return _summary(job, manifest.counts, len(kept), started)


def _plan(job: FeaturizeJob, stores: Sequence[FeatureStore]) -> dict[str, Any]:
    first = stores[0].manifest
    fingerprints = [store.manifest.fingerprint for store in stores]
    return {
        "fingerprint": digest({"merged": fingerprints}),
        "recipe_fingerprint": first.recipe_fingerprint,
        "recipe": first.recipe,
        "num_units": sum(len(store.manifest.units) for store in stores),
        "command": job.command,
        "imported": {"from": "merged stores", "stores": fingerprints},
    }


def _all_units(
    stores: Sequence[FeatureStore], kept: set[int]
) -> Iterator[tuple[UnitFeatures | None, Mapping[str, int]]]:
    """The units of all stores, None where the merged store has them already, and their counts."""
    columns = set().union(*(store.samples.column_names for store in stores))
    number = 0
    for store in stores:
        samples = _with_columns(store.samples, columns)
        first_row, first_sample = 0, 0
        for unit in store.manifest.units:
            table = samples.slice(first_sample, unit.samples)
            rows = torch.arange(first_row, first_row + unit.feature_rows)
            yield (
                None if number in kept else _read_unit(store, table, rows),
                unit.counts,
            )
            number += 1
            first_row += unit.feature_rows
            first_sample += unit.samples


def _read_unit(store: FeatureStore, samples: pa.Table, rows: torch.Tensor) -> UnitFeatures:
    first = int(rows[0]) if len(rows) else 0
    in_unit = pc.subtract(samples["feature_row"], first)
    place = samples.schema.get_field_index("feature_row")
    return UnitFeatures(
        tensors={name: store.gather(name, rows) for name in store.tensor_names},
        samples=samples.set_column(place, samples.schema.field(place), in_unit),
    )


def _with_columns(samples: pa.Table, columns: set[str]) -> pa.Table:
    """Add what only other stores have: no author, and one statement per problem."""
    for name, type_ in ONLY_IN_SOME.items():
        if name in columns and name not in samples.column_names:
            filled = np.zeros(len(samples)) if name == STATEMENT_COLUMN else [None] * len(samples)
            samples = samples.append_column(name, pa.array(filled).cast(type_))
    last = [name for name in ONLY_IN_SOME if name in columns]
    return samples.select([*(n for n in samples.column_names if n not in last), *last])


# --- what cannot be merged


def _refuse_target(job: FeaturizeJob, stores: Sequence[FeatureStore]) -> None:
    if _place(job.store_dir) in {_place(store.path) for store in stores}:
        raise FeatureStoreError(
            f"{job.store_dir}: is one of the stores to merge; name another experiment.name"
        )


def _place(path: Path | str) -> str:
    """The same text for a folder, however its path is written; --overwrite must not delete it."""
    return str(path).rstrip("/") if is_remote(path) else str(Path(path).resolve())


def _check_recipes(stores: Sequence[FeatureStore]) -> None:
    first = stores[0]
    for other in stores[1:]:
        ours, theirs = first.manifest, other.manifest
        if ours.recipe_fingerprint == theirs.recipe_fingerprint and ours.tensors == theirs.tensors:
            continue
        names = [
            name
            for name in {**ours.recipe, **theirs.recipe}
            if ours.recipe.get(name) != theirs.recipe.get(name)
        ]
        raise FeatureStoreError(
            f"{first.path} and {other.path} were made with another {', '.join(names) or 'recipe'};"
            " featurize one of them again with the settings of the other"
        )


def _check_samples(stores: Sequence[FeatureStore]) -> None:
    for store in stores:
        if PAIRS_COLUMN in store.samples.column_names:
            raise FeatureStoreError(
                f"{store.path}: has the samples of planned pairs only; featurize it without --pairs"
            )
    for column, remedy in (
        ("problem_id", "outputs are paired within a problem; give the problems of one of them a"),
        ("task_id", "a sample is known by it; give those of one of them a"),
    ):
        _check_distinct(stores, column, remedy)


def _check_distinct(stores: Sequence[FeatureStore], column: str, remedy: str) -> None:
    owners: dict[str, Path | str] = {}
    for store in stores:
        for value in store.samples[column].unique().to_pylist():
            other = owners.setdefault(value, store.path)
            if other is not store.path:
                raise FeatureStoreError(
                    f"{other} and {store.path}: both have {column} {value!r}; {remedy} prefix in"
                    " its data and featurize it again"
                )


def _summary(
    job: FeaturizeJob,
    counts: dict[str, int],
    num_kept: int,
    started: float,
    *,
    was_up_to_date: bool = False,
) -> FeaturizeSummary:
    return FeaturizeSummary(
        store_dir=job.store_dir,
        counts=counts,
        num_resumed_units=num_kept,
        seconds=time.monotonic() - started,
        was_up_to_date=was_up_to_date,
    )
