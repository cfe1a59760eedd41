"""Stores at a URI: a writer that uploads each unit, and a cache of downloaded files."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.io.files import TEMPORARY_SUFFIX, atomic_path, checksum, sync
from featurize.io.remote import FILES_AT_ONCE, RemoteFolder, is_remote
from featurize.store.format import UnitFeatures
from featurize.store.manifest import SAMPLES_FILE, DamagedFileError, Manifest, Unit
from featurize.store.shards import Span, header_bytes, parse_header
from featurize.store.writer import StoreWriter


class CachedFiles:
    """Files of a store, downloaded once and compared with their checksums.

    A copy with its final name was complete when it was downloaded, so it is not checked again.
    """

    def __init__(
        self, remote: RemoteFolder, folder: Path, expected: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """`expected` has the bytes and checksum of each file, from the manifest."""
        self.folder = folder
        self._remote = remote
        self._expected = expected
        self._present: set[str] = set()

    def fetch(self, names: Sequence[str]) -> None:
        """Download the files that are missing here.

        Raises:
            DamagedFileError: a file is missing there or differs from the manifest.
        """
        missing = [name for name in names if name not in self._present and not self._is_here(name)]
        for start in range(0, len(missing), FILES_AT_ONCE):
            self._download(missing[start : start + FILES_AT_ONCE])
        self._present.update(names)

    def _is_here(self, name: str) -> bool:
        path = self.folder / name
        return path.exists() and path.stat().st_size == self._expected[name]["bytes"]

    def _download(self, names: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Two processes may download the same file, each to its own name.
        suffix = f".{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
        copies = [self.folder / f"{name}{suffix}" for name in names]
        try:
            self._remote.download([f"units/{name}" for name in names], copies)
            for name, copy in zip(names, copies, strict=True):
                if checksum(copy) != self._expected[name]["checksum"]:
                    raise DamagedFileError(self._remote.uri, name, "another checksum")
                sync(copy)
                copy.replace(self.folder / name)
            sync(self.folder)
        except FileNotFoundError as error:
            there = self._remote.sizes("units")
            lost = next((name for name in names if name not in there), names[0])
            raise DamagedFileError(self._remote.uri, lost, "missing") from error
        finally:
            for copy in copies:
                copy.unlink(missing_ok=True)


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
