"""Writes a feature store unit by unit, here or at a URI; a killed run loses at most one unit."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from featurize.errors import FeatureStoreError
from featurize.io.files import (
    TEMPORARY_SUFFIX,
    atomic_path,
    checksum,
    digest,
    write_json,
)
from featurize.io.remote import Folder, LocalFolder, RemoteFolder, is_remote
from featurize.store import samples
from featurize.store.manifest import FORMAT_VERSION, SAMPLES_FILE, Manifest, Unit
from featurize.store.reader import CachedFiles
from featurize.store.samples import ANSWER_COLUMNS, LIKELIHOOD_COLUMNS
from featurize.store.shards import Shard, Span, header_bytes, is_exact, parse_header

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UnitFeatures:
    """The features and samples of one unit."""

    tensors: Mapping[str, torch.Tensor]
    """By name: [feature_rows, width], see `stored_as`."""
    samples: pa.Table
    """SAMPLE_SCHEMA (+ likelihood and answers); feature_row counts from 0 in the unit."""


class StoreWriter:
    """Writes a store unit by unit; many processes may write different units of one store."""

    is_thorough = True
    """Whether finished units are compared by their checksums, not only by their sizes."""
    damage: tuple[type[Exception], ...] = (ValueError, OSError)
    """Errors that mean a damaged file, which is written again."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        """`plan` has the keys `fingerprint`, `recipe_fingerprint`, `recipe` and `num_units`."""
        self.path = path
        self.plan = dict(plan)
        self.store: Path | str = path
        self._folder: Folder = LocalFolder(path)

    def begin(self) -> list[int]:
        """Claim the folder; return the numbers of the units that are missing or damaged.

        A finished store loses its manifest if there are any.

        Raises:
            FeatureStoreError: the folder has a store made from another recipe or dataset.
        """
        self._claim()
        finished = self.finished_units()
        pending = [number for number in range(self.plan["num_units"]) if number not in finished]
        if pending and self._folder.read("manifest.json") is not None:
            self._folder.remove("manifest.json")
            first = ", ".join(map(str, pending[:5])) + (", ..." if len(pending) > 5 else "")
            logger.warning("damaged units of a finished store are made again: %s", first)
        return pending

    def _claim(self) -> None:
        """Write the plan, or check that the store has the same one."""
        content = self._folder.read("plan.json")
        if content is not None:
            found = self._parse_plan(content)
            if found.get("fingerprint") == self.plan["fingerprint"]:
                return
            # The plan of a run that failed before its first unit may be replaced.
            if any(name.endswith(".json") for name in self._folder.sizes("units")):
                raise FeatureStoreError(
                    f"{self.store}: has features made with another"
                    f" {_difference(found, self.plan)}; use another experiment.name,"
                    " or --overwrite to replace them"
                )
        write_json(self.path / "plan.json", {"format_version": FORMAT_VERSION, **self.plan})
        self._hand_over("plan.json")

    def _parse_plan(self, content: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(content))
        except (ValueError, TypeError) as error:
            raise FeatureStoreError(
                f"{self.store}/plan.json: not readable as JSON ({error}); delete it and rerun"
            ) from error

    def finished_units(self) -> dict[int, Unit]:
        """Units whose files match their receipt; the others will be computed again."""
        receipts = self._receipts()
        sizes = self._folder.sizes("units")
        # On all cores: at the end of a large run everything waits for this.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "checksums") as pool:
            units = pool.map(lambda read: self._find_unit(read, sizes), receipts)
            return {unit.number: unit for unit in units if unit is not None}

    def write_unit(self, number: int, features: UnitFeatures, counts: Mapping[str, int]) -> Unit:
        """Write one unit; its receipt comes last, so the files it names are complete.

        Raises:
            FeatureStoreError: a value is NaN or inf (names the sample).
            OSError: the disk is full, or the URI cannot be reached.
        """
        _refuse_non_finite(features)
        folder = self.path / "units"
        folder.mkdir(parents=True, exist_ok=True)
        names = (f"{number:05d}.safetensors", f"{number:05d}.parquet")
        tensors = {name: tensor.contiguous() for name, tensor in features.tensors.items()}
        with atomic_path(folder / names[0]) as temporary:
            # NOTE: not save_file, which writes a hidden file first that a kill leaves behind.
            temporary.write_bytes(save(tensors))
        with atomic_path(folder / names[1]) as temporary:
            pq.write_table(features.samples, temporary, compression="zstd")
        unit = Unit(
            number=number,
            samples=features.samples.num_rows,
            feature_rows=len(next(iter(tensors.values()))),
            files={name: _describe(folder / name) for name in names},
            counts=dict(counts),
        )
        receipt = {"unit": dataclasses.asdict(unit), "checksum": self._receipt_checksum(unit)}
        write_json(folder / f"{number:05d}.json", receipt)
        self._hand_over(*_names(unit))
        return unit

    def finish(
        self, counts: Mapping[str, int], units: Mapping[int, Unit] | None = None
    ) -> Manifest:
        """Write the manifest; `units` is what `finished_units` returned just now.

        Raises:
            FeatureStoreError: a unit is missing or damaged.
        """
        units = self.finished_units() if units is None else units
        missing = [number for number in range(self.plan["num_units"]) if number not in units]
        if missing:
            raise FeatureStoreError(
                f"{self.store}: unit {missing[0]} is missing or damaged ({len(missing)} such"
                " units); run the same command again, it redoes only those"
            )
        spans = self._first_spans()
        in_order = [units[number] for number in sorted(units)]
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            fingerprint=self.plan["fingerprint"],
            recipe_fingerprint=self.plan["recipe_fingerprint"],
            recipe=self.plan["recipe"],
            tensors={name: spans[name].shape[1] for name in sorted(spans)},
            dtype=next(spans[name].dtype for name in spans if not is_exact(name)),
            counts=dict(counts),
            units=in_order,
            sample_table=self._join_samples(in_order),
            imported=self.plan.get("imported"),
        )
        write_json(self.path / "manifest.json", manifest.to_dict())
        self._hand_over("manifest.json")
        for leftover in self.path.rglob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        return manifest

    def _hand_over(self, *names: str) -> None:
        """Called when files below `path` are whole, the one that names the others last."""

    def _join_samples(self, units: Sequence[Unit]) -> dict[str, Any] | None:
        """Join the tables of many units in one file; returns its size and checksum."""
        if len(units) <= samples.TABLES_AT_ONCE:
            return None
        path = self.path / "units" / SAMPLES_FILE
        with atomic_path(path) as temporary:
            samples.join_samples(temporary, self.path, units, self._tables)
        described = _describe(path)
        self._hand_over(f"units/{SAMPLES_FILE}")
        return described

    @contextlib.contextmanager
    def _tables(self, _units: Sequence[Unit]) -> Iterator[Path]:
        """A folder with the tables of units."""
        yield self.path / "units"

    def _first_spans(self) -> dict[str, Span]:
        """The tensors of the first unit, which are those of every unit."""
        return Shard(str(self.path / "units" / "00000.safetensors")).spans

    def _receipts(self) -> list[Callable[[], bytes]]:
        return [receipt.read_bytes for receipt in sorted((self.path / "units").glob("*.json"))]

    def _find_unit(self, read: Callable[[], bytes], sizes: Mapping[str, int]) -> Unit | None:
        """The unit of a receipt if its files match."""
        try:
            unit = self._parse_receipt(read())
            for name, expected in unit.files.items():
                if sizes.get(name) != expected["bytes"]:
                    return None
                if (
                    self.is_thorough
                    and self._folder.checksum(f"units/{name}") != (expected["checksum"])
                ):
                    return None
        except self.damage:
            return None
        return unit

    def _parse_receipt(self, content: bytes) -> Unit:
        """Parse a receipt; ValueError if it is damaged or belongs to another plan."""
        try:
            fields = json.loads(content)
            unit = Unit(**fields["unit"])
            is_ours = fields["checksum"] == self._receipt_checksum(unit)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a receipt: {error!r}") from error
        if not is_ours:
            raise ValueError("damaged, or of another plan")
        return unit

    def _receipt_checksum(self, unit: Unit) -> str:
        """A checksum that also depends on the plan."""
        return digest([self.plan["fingerprint"], dataclasses.asdict(unit)])


class RemoteStoreWriter(StoreWriter):
    """Writes files below `path`, uploads each with its receipt last, and keeps no copy.

    If a run is killed between writing and uploading, the next one on this machine uploads.
    """

    damage = (ValueError,)  # OSError: the server does not answer

    def __init__(
        self, uri: str, plan: Mapping[str, Any], path: Path, *, is_thorough: bool = False
    ) -> None:
        super().__init__(path, plan)
        self.store = uri
        self._folder: RemoteFolder = RemoteFolder(uri)
        self.is_thorough = is_thorough

    def _hand_over(self, *names: str) -> None:
        for name in names:
            self._folder.upload(self.path / name, name)
        for name in reversed(names):
            (self.path / name).unlink()

    def _receipts(self) -> list[Callable[[], bytes]]:
        """The receipts at the URI; uploads the units that are still local first."""
        for unit in StoreWriter(self.path, self.plan).finished_units().values():
            self._hand_over(*_names(unit))
        names = [name for name in self._folder.sizes("units") if name.endswith(".json")]
        found = self._folder.read_all([f"units/{name}" for name in names])
        return [functools.partial(bytes, found[name]) for name in sorted(found)]

    @contextlib.contextmanager
    def _tables(self, units: Sequence[Unit]) -> Iterator[Path]:
        """Copies of the tables, some of which other machines have written."""
        files = {name: file for unit in units for name, file in unit.files.items()}
        names = [name for name in files if name.endswith(".parquet")]
        folder = self.path / "tables"
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        try:
            CachedFiles(self._folder, folder, files).fetch(names)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _first_spans(self) -> dict[str, Span]:
        name = "units/00000.safetensors"
        length = header_bytes(self._folder.read_start(name, 8))
        return parse_header(self._folder.read_start(name, length))


def open_writer(
    store: Path | str, plan: Mapping[str, Any], writing_dir: Path, *, is_thorough: bool
) -> StoreWriter:
    """Return the writer of a store at a path, or at a URI with its units written below a folder."""
    if not is_remote(store):
        return StoreWriter(writing_dir, plan)
    return RemoteStoreWriter(str(store), plan, writing_dir, is_thorough=is_thorough)


def _names(unit: Unit) -> list[str]:
    """The files of a unit below the store, the receipt last."""
    return [f"units/{name}" for name in (*unit.files, f"{unit.number:05d}.json")]


def _describe(file: Path) -> dict[str, Any]:
    """Size and checksum, as in receipts and the manifest."""
    return {"bytes": file.stat().st_size, "checksum": checksum(file)}


def _refuse_non_finite(features: UnitFeatures) -> None:
    """Raise FeatureStoreError naming the first sample with a NaN or inf."""
    rows = features.samples["feature_row"].to_numpy()
    for name, tensor in features.tensors.items():
        bad = (~torch.isfinite(tensor)).any(dim=1).nonzero()  # [bad, 1]
        if len(bad):
            task_id = features.samples["task_id"][int(np.flatnonzero(rows == int(bad[0]))[0])]
            raise FeatureStoreError(
                f"NaN or inf in {name} of sample {task_id.as_py()!r} ({len(bad)} such rows, stored"
                f" as {str(tensor.dtype).removeprefix('torch.')}); if it is an overflow, set"
                " featurize.storage_dtype or models.policy.dtype to one of wider range"
            )
    for name in set(features.samples.column_names) & {*LIKELIHOOD_COLUMNS, *ANSWER_COLUMNS}:
        bad_places = np.flatnonzero(~np.isfinite(features.samples[name].to_numpy()))
        if len(bad_places):
            task_id = features.samples["task_id"][int(bad_places[0])]
            raise FeatureStoreError(f"NaN or inf in {name} of sample {task_id.as_py()!r}")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Names of the recipe fields that differ between two plans."""
    old, new = found.get("recipe", {}), wanted["recipe"]
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    if found.get("imported") != wanted.get("imported"):
        keys.append("origin (computed, imported from other files, or merged of other stores)")
    return ", ".join(keys) or "dataset, selection of problems or featurize.unit_tokens"
