"""Writes a feature store to a URI: each unit on this machine first, then sent whole."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.io.files import atomic_path
from featurize.io.remote import RemoteFolder
from featurize.store.cache import CachedFiles
from featurize.store.format import SAMPLES_FILE, Manifest, Unit, UnitFeatures
from featurize.store.shards import Span, header_bytes, parse_header
from featurize.store.writer import StoreWriter


class RemoteStoreWriter(StoreWriter):
    """Writes units below `path`, sends each with its receipt last, and keeps no copy.

    What was written but not sent when a run was killed is sent by the next one on this machine.
    """

    def __init__(
        self, uri: str, plan: Mapping[str, Any], path: Path, *, is_thorough: bool = False
    ) -> None:
        """`is_thorough`: what is there is judged by its checksums and not only by its size."""
        super().__init__(path, plan)
        self.remote = RemoteFolder(uri)
        self._folder = self.remote
        self.is_thorough = is_thorough

    def begin(self) -> None:
        """Sends the plan, or checks that the URI holds the same one.

        Raises:
            FeatureStoreError: the URI holds a store made by another recipe or dataset.
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
        """The units at the URI that agree with their receipts; those still here are sent first."""
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
        """Writes one unit and sends it.

        Raises:
            FeatureStoreError: a value is NaN or inf (names the sample).
            OSError: the disk is full, or the URI cannot be reached any more.
        """
        unit = super().write_unit(number, features, counts)
        self._send(unit)
        return unit

    def finish(
        self, counts: Mapping[str, int], units: Mapping[int, Unit] | None = None
    ) -> Manifest:
        """Sends the manifest; every unit must be there.

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
        """Copies of the tables, which other machines may have written."""
        files = {name: file for unit in units for name, file in unit.files.items()}
        names = [name for name in files if name.endswith(".parquet")]
        folder = self.path / "tables"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
        try:
            CachedFiles(self.remote, folder, files).fetch(names)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, unit: Unit, sizes: Mapping[str, int]) -> None:
        """Raises ValueError unless the unit's files at the URI are as its receipt says."""
        for name, expected in unit.files.items():
            is_there = sizes.get(name) == expected["bytes"]
            if is_there and self.is_thorough:
                is_there = self.remote.checksum(f"units/{name}") == expected["checksum"]
            if not is_there:
                raise ValueError(f"{name}: not the bytes its receipt names")

    def _has_units(self) -> bool:
        return any(name.endswith(".json") for name in self.remote.sizes("units"))

    def _first_spans(self) -> dict[str, Span]:
        name = "units/00000.safetensors"
        length = header_bytes(self.remote.read_start(name, 8))
        return parse_header(self.remote.read_start(name, length))
