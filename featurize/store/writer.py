"""Writes a feature store unit by unit, here or at a URI; a killed run loses at most one unit."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
    read_json,
    write_json,
)
from featurize.io.remote import Folder, LocalFolder, RemoteFolder, is_remote
from featurize.store import samples
from featurize.store.manifest import FORMAT_VERSION, SAMPLES_FILE, Manifest, Unit
from featurize.store.reader import CachedFiles
from featurize.store.samples import ANSWER_COLUMNS, LIKELIHOOD_COLUMNS
from featurize.store.shards import Shard, Span, header_bytes, is_exact, parse_header


@dataclass(frozen=True, kw_only=True)
class UnitFeatures:
    """The features and samples of one unit."""

    tensors: Mapping[str, torch.Tensor]  # name -> [feature_rows, width], see `stored_as`
    samples: (
        pa.Table
    )  # SAMPLE_SCHEMA (+ likelihood and answers); feature_row counts from 0 in the unit


class StoreWriter:
    """Writes a store unit by unit; many processes may write different units of one store."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        """`plan` has the keys `fingerprint`, `recipe_fingerprint`, `recipe` and `num_units`."""
        self.path = path
        self.plan = dict(plan)
        self._folder: Folder = LocalFolder(path)  # of the store

    def begin(self) -> None:
        """Write the plan, or check that the folder has the same one.

        Raises:
            FeatureStoreError: the folder has a store made from another recipe or dataset.
        """
        plan_path = self.path / "plan.json"
        if plan_path.exists():
            found = read_json(plan_path)
            if found.get("fingerprint") == self.plan["fingerprint"]:
                return
            # The plan of a run that failed before its first unit may be replaced.
            if self._has_units():
                raise FeatureStoreError(
                    f"{self.path}: has features made with another"
                    f" {_difference(found, self.plan)}; use another experiment.name,"
                    " or --overwrite to replace them"
                )
        write_json(plan_path, {"format_version": FORMAT_VERSION, **self.plan})

    def finished_units(self) -> dict[int, Unit]:
        """Units whose files match their receipt; the others will be computed again."""
        receipts = sorted((self.path / "units").glob("*.json"))
        # On all cores: at the end of a large run everything waits for this.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "checksums") as pool:
            units = pool.map(self._find_unit, receipts)
            return {unit.number: unit for unit in units if unit is not None}

    def write_unit(self, number: int, features: UnitFeatures, counts: Mapping[str, int]) -> Unit:
        """Write one unit; its receipt comes last, so the files it names are complete.

        Raises:
            FeatureStoreError: a value is NaN or inf (names the sample).
            OSError: the disk is full.
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
        files = {name: _describe(folder / name) for name in names}
        unit = Unit(
            number=number,
            samples=features.samples.num_rows,
            feature_rows=len(next(iter(tensors.values()))),
            files=files,
            counts=dict(counts),
        )
        receipt = {"unit": dataclasses.asdict(unit), "checksum": self._receipt_checksum(unit)}
        write_json(folder / f"{number:05d}.json", receipt)
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
                f"{self.path}: unit {missing[0]} is missing or damaged ({len(missing)} such units);"
                " run the same command again, it redoes only those"
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
        for leftover in self.path.rglob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        return manifest

    def withdraw(self) -> bool:
        """Remove the manifest, because units are damaged; returns whether there was one."""
        folder = self._folder
        was_finished = folder.read("manifest.json") is not None
        folder.remove("manifest.json")
        return was_finished

    def _join_samples(self, units: Sequence[Unit]) -> dict[str, Any] | None:
        """Join the tables of many units in one file; returns its size and checksum."""
        if len(units) <= samples.TABLES_AT_ONCE:
            return None
        path = self.path / "units" / SAMPLES_FILE
        with atomic_path(path) as temporary:
            samples.join_samples(temporary, self.path, units, self._tables)
        return _describe(path)

    @contextlib.contextmanager
    def _tables(self, _units: Sequence[Unit]) -> Iterator[Path]:
        """A folder with the tables of units."""
        yield self.path / "units"

    def _has_units(self) -> bool:
        return any((self.path / "units").glob("*.json"))

    def _first_spans(self) -> dict[str, Span]:
        """The tensors of the first unit, which are those of every unit."""
        return Shard(str(self.path / "units" / "00000.safetensors")).spans

    def _find_unit(self, receipt: Path) -> Unit | None:
        """The unit of a receipt if its files match."""
        try:
            unit = self._parse_receipt(receipt.read_bytes())
            _check_unit(self.path, unit)
        except (ValueError, OSError):
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


def _describe(file: Path) -> dict[str, Any]:
    """Size and checksum, as in receipts and the manifest."""
    return {"bytes": file.stat().st_size, "checksum": checksum(file)}


def _check_unit(path: Path, unit: Unit) -> None:
    """Raise ValueError or OSError unless the unit's files match its receipt."""
    for name, expected in unit.files.items():
        file = path / "units" / name
        if file.stat().st_size != expected["bytes"] or checksum(file) != expected["checksum"]:
            raise ValueError(f"{file}: differs from its receipt")


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
        keys.append("origin (computed, or imported from other files)")
    return ", ".join(keys) or "dataset, selection of problems or featurize.unit_tokens"


def open_writer(
    store: Path | str, plan: Mapping[str, Any], writing_dir: Path, *, is_thorough: bool
) -> StoreWriter:
    """Return the writer of a store at a path, or at a URI with its units written below a folder."""
    if not is_remote(store):
        return StoreWriter(writing_dir, plan)
    return RemoteStoreWriter(str(store), plan, writing_dir, is_thorough=is_thorough)


class RemoteStoreWriter(StoreWriter):
    """Writes units below `path`, uploads each with its receipt last, and keeps no copy.

    If a run is killed between writing and uploading, the next one on this machine uploads.
    """

    def __init__(
        self, uri: str, plan: Mapping[str, Any], path: Path, *, is_thorough: bool = False
    ) -> None:
        """`is_thorough`: compare checksums of uploaded files, not only their sizes."""
        super().__init__(path, plan)
        self.remote = RemoteFolder(uri)
        self._folder = self.remote
        self.is_thorough = is_thorough

    def begin(self) -> None:
        """Upload the plan, or check that the URI has the same one.

        Raises:
            FeatureStoreError: the URI has a store made from another recipe or dataset.
        """
        plan_path = self.path / "plan.json"
        found = self.remote.read("plan.json")
        plan_path.unlink(missing_ok=True)
        if found is not None:
            with atomic_path(plan_path) as temporary:
                temporary.write_bytes(found)
        super().begin()
        if plan_path.read_bytes() != found:
            self.remote.upload(plan_path, "plan.json")

    def finished_units(self) -> dict[int, Unit]:
        """Units at the URI that match their receipts; uploads those that are still local first."""
        for unit in super().finished_units().values():
            self._send(unit)
        sizes = self.remote.sizes("units")
        receipts = self.remote.read_all([f"units/{n}" for n in sizes if n.endswith(".json")])
        units = {}
        for name in sorted(receipts):
            try:
                unit = self._parse_receipt(receipts[name])
                self._check(unit, sizes)
            except ValueError:
                continue
            units[unit.number] = unit
        return units

    def write_unit(self, number: int, features: UnitFeatures, counts: Mapping[str, int]) -> Unit:
        """Write one unit and upload it.

        Raises:
            FeatureStoreError: a value is NaN or inf (names the sample).
            OSError: the disk is full, or the URI cannot be reached.
        """
        unit = super().write_unit(number, features, counts)
        self._send(unit)
        return unit

    def finish(
        self, counts: Mapping[str, int], units: Mapping[int, Unit] | None = None
    ) -> Manifest:
        """Upload the manifest; every unit must be there.

        Raises:
            FeatureStoreError: a unit is missing or damaged.
        """
        manifest = super().finish(counts, units)
        self.remote.upload(self.path / "manifest.json", "manifest.json")
        for name in ("manifest.json", "plan.json"):
            (self.path / name).unlink()
        return manifest

    def _send(self, unit: Unit) -> None:
        folder = self.path / "units"
        receipt = f"{unit.number:05d}.json"
        for name in (*unit.files, receipt):
            self.remote.upload(folder / name, f"units/{name}")
        for name in (receipt, *unit.files):
            (folder / name).unlink()

    def _join_samples(self, units: Sequence[Unit]) -> dict[str, Any] | None:
        described = super()._join_samples(units)
        if described is not None:
            path = self.path / "units" / SAMPLES_FILE
            self.remote.upload(path, f"units/{SAMPLES_FILE}")
            path.unlink()
        return described

    @contextlib.contextmanager
    def _tables(self, units: Sequence[Unit]) -> Iterator[Path]:
        """Copies of the tables, some of which other machines have written."""
        files = {name: file for unit in units for name, file in unit.files.items()}
        names = [name for name in files if name.endswith(".parquet")]
        folder = self.path / "tables"
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        try:
            CachedFiles(self.remote, folder, files).fetch(names)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, unit: Unit, sizes: Mapping[str, int]) -> None:
        """Raise ValueError unless the unit's files at the URI match its receipt."""
        for name, expected in unit.files.items():
            is_there = sizes.get(name) == expected["bytes"]
            if is_there and self.is_thorough:
                is_there = self.remote.checksum(f"units/{name}") == expected["checksum"]
            if not is_there:
                raise ValueError(f"{name}: differs from its receipt")

    def _has_units(self) -> bool:
        return any(name.endswith(".json") for name in self.remote.sizes("units"))

    def _first_spans(self) -> dict[str, Span]:
        name = "units/00000.safetensors"
        length = header_bytes(self.remote.read_start(name, 8))
        return parse_header(self.remote.read_start(name, length))
