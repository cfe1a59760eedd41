"""Merge stores of one recipe, so that a head is trained on several datasets without another pass.

The files of a unit are written again as they are in its store; only the units' numbers change.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import digest
from featurize.io.remote import is_remote
from featurize.run.job import FeaturizeJob, FeaturizeSummary, finished_store, sum_counts
from featurize.run.launch import remove_store, write_store
from featurize.store import FeatureStore
from featurize.store.manifest import Unit
from featurize.store.samples import PAIRS_COLUMN, STATEMENT_COLUMN, mark_statements
from featurize.store.writer import UnitFeatures

ONLY_IN_SOME = {
    STATEMENT_COLUMN: pa.scalar(0, pa.int32()),  # every problem has one statement
    "author": pa.scalar(None, pa.string()),
}
"""Columns that a store may lack, and what its samples have then."""


def merge_features(
    job: FeaturizeJob,
    stores: Sequence[FeatureStore],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
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
            a problem or sample; a damaged unit; or the folder has another store.
    """
    _refuse_stores(job, stores)
    first = stores[0].manifest
    fingerprints = [store.manifest.fingerprint for store in stores]
    fingerprint = digest({"merged": fingerprints})
    if overwrite:
        remove_store(job)
    elif (manifest := finished_store(job, fingerprint)) is not None:
        return FeaturizeSummary.of_finished(job, manifest)
    parts = list(_parts(stores))
    store_plan = {
        "fingerprint": fingerprint,
        "recipe_fingerprint": first.recipe_fingerprint,
        "recipe": first.recipe,
        "num_units": len(parts),
        "command": job.command,
        "imported": {"from": "merged stores", "stores": fingerprints},
    }
    return write_store(
        job,
        store_plan,
        lambda number: (parts[number].read(), parts[number].unit.counts),
        lambda _units: sum_counts(store.manifest.counts for store in stores),
        lambda done, _unit: progress(done, len(parts)),
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A unit of one of the stores."""

    store: FeatureStore
    unit: Unit
    samples: pa.Table  # of the unit
    first_row: int  # of the unit in its store

    def read(self) -> UnitFeatures:
        """Its features and samples.

        Raises:
            FeatureStoreError: a file of it differs from its checksum, and would get a new one.
        """
        self.store.check_unit(self.unit)
        rows = torch.arange(self.first_row, self.first_row + self.unit.feature_rows)
        place = self.samples.schema.get_field_index("feature_row")
        in_unit = pc.subtract(self.samples["feature_row"], self.first_row)
        return UnitFeatures(
            tensors={name: self.store.gather(name, rows) for name in self.store.tensor_names},
            samples=self.samples.set_column(place, self.samples.schema.field(place), in_unit),
        )


def _parts(stores: Sequence[FeatureStore]) -> Iterator[_Part]:
    tables = _with_same_columns([store.samples for store in stores])
    for store, samples in zip(stores, tables, strict=True):
        first_row, first_sample = 0, 0
        for unit in store.manifest.units:
            table = samples.slice(first_sample, unit.samples)
            yield _Part(store=store, unit=unit, samples=table, first_row=first_row)
            first_row += unit.feature_rows
            first_sample += unit.samples


def _with_same_columns(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Add the columns that only other tables have."""
    if any(STATEMENT_COLUMN in table.column_names for table in tables):
        # NOTE: stores of earlier versions have no such column, whatever their problems have.
        tables = [
            table if STATEMENT_COLUMN in table.column_names else mark_statements(table)
            for table in tables
        ]
    names = set().union(*(table.column_names for table in tables))
    added = {name: default for name, default in ONLY_IN_SOME.items() if name in names}
    filled = []
    for table in tables:
        for name, default in added.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(default, len(table)))
        filled.append(table.select([*(n for n in table.column_names if n not in added), *added]))
    return filled


# --- what cannot be merged


def _refuse_stores(job: FeaturizeJob, stores: Sequence[FeatureStore]) -> None:
    """Raise FeatureStoreError for stores that cannot be one, or whose target is one of them."""
    if len(stores) < 2:
        raise FeatureStoreError(
            f"{stores[0].path}: nothing to merge it with; name two stores or more"
        )
    places = [_place(store.path) for store in stores]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise FeatureStoreError(f"{stores[number].path}: is named twice; name each store once")
    for other in stores[1:]:
        _refuse_recipes(stores[0], other)
    for store in stores:
        if PAIRS_COLUMN in store.samples.column_names:
            raise FeatureStoreError(
                f"{store.path}: has the samples of planned pairs only; featurize it without --pairs"
            )
    for one, other in itertools.combinations(stores, 2):
        _refuse_shared(one, other, "problem_id", "outputs are paired within a problem")
        _refuse_shared(one, other, "task_id", "a sample is known by it")
    if _place(job.store_dir) in places:
        raise FeatureStoreError(
            f"{job.store_dir}: is one of the stores to merge; name another experiment.name"
        )


def _place(path: Path | str) -> str:
    """The same text for a folder, however its path is written; --overwrite must not delete it."""
    return str(path).rstrip("/") if is_remote(path) else str(Path(path).resolve())


def _refuse_recipes(one: FeatureStore, other: FeatureStore) -> None:
    ours, theirs = one.manifest, other.manifest
    if ours.recipe_fingerprint == theirs.recipe_fingerprint and ours.tensors == theirs.tensors:
        return
    names = [
        name
        for name in {**ours.recipe, **theirs.recipe}
        if ours.recipe.get(name) != theirs.recipe.get(name)
    ]
    raise FeatureStoreError(
        f"{one.path} and {other.path} were made with another {', '.join(names) or 'recipe'};"
        " featurize one of them again with the settings of the other"
    )


def _refuse_shared(one: FeatureStore, other: FeatureStore, column: str, reason: str) -> None:
    values = one.samples[column]
    shared = values.filter(pc.is_in(values, value_set=other.samples[column]))
    if len(shared):
        raise FeatureStoreError(
            f"{one.path} and {other.path}: both have {column} {shared[0].as_py()!r}; {reason};"
            f" give those of one of them a prefix in its data and featurize it again"
        )
