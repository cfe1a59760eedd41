"""Reads a finished feature store; opening it reads the manifest alone."""

import copy
import functools
import hashlib
import logging
import resource
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import TEMPORARY_SUFFIX, checksum, sync
from featurize.io.remote import FILES_AT_ONCE, RemoteFolder, is_remote, open_folder, user_cache_dir
from featurize.settings import SPLITS
from featurize.store.manifest import SAMPLES_FILE, DamagedFileError, Manifest, Unit, parse_manifest
from featurize.store.samples import PAIRS_COLUMN, read_joined, read_samples
from featurize.store.shards import DTYPES, Runs, Shard, is_exact, plan_runs, stored_as

MOST_GAP_BYTES = 4096
"""Gaps up to this many bytes are read rather than skipped: a system call costs more."""

MOST_OPEN_SHARDS = 128
"""Shards kept open; fewer if the process may open few files."""

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class FeatureStore:
    """A finished store, opened for reading.

    It takes the memory of the requested rows and, once used, of the sample table. Shards are opened
    on demand, and the number of open shards is bounded.
    """

    def __init__(
        self, path: Path | str, manifest: Manifest, folder: Path, copies: "CachedFiles | None"
    ) -> None:
        """Use `FeatureStore.open`."""
        self.path = path  # folder or URI
        self.manifest = manifest
        self._folder = folder  # local folder of its files, once downloaded
        self._copies = copies  # of a store at a URI
        rows = [unit.feature_rows for unit in manifest.units]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        few = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8
        # NOTE: it must not refer to the store, so that files close when the store is deleted.
        open_shard = functools.partial(_open_shard, path, folder, manifest)
        self._shard = functools.lru_cache(min(MOST_OPEN_SHARDS, few) or 1)(open_shard)

    @classmethod
    def open(cls, path: Path | str, cache_dir: Path | None = None) -> Self:
        """Open a store.

        Args:
            path: folder or URI; files at a URI are downloaded when first needed.
            cache_dir: folder for downloaded files; None: the user's cache folder.

        Raises:
            FeatureStoreError: it is missing, unfinished or damaged.
        """
        store = path if is_remote(path) else Path(path)
        folder = open_folder(store)
        content = folder.read("manifest.json")
        if content is None:
            is_begun = folder.read("plan.json") is not None
            raise FeatureStoreError(
                f"{store}: {'an unfinished feature store' if is_begun else 'no features'};"
                f" run `critic featurize --split {_split_of(store)}` with the same config"
            )
        manifest = parse_manifest(store, content)
        if not isinstance(folder, RemoteFolder):
            return cls(store, manifest, Path(path) / "units", None)
        # A store that was made again has another manifest, and so another folder.
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        copies = (cache_dir or user_cache_dir()) / "stores" / name
        files = CachedFiles(folder, copies, manifest.files)
        return cls(store, manifest, files.folder, files)

    @functools.cached_property
    def samples(self) -> pa.Table:
        """One row per sample; feature_row counts through the whole store."""
        units, table = self.manifest.units, self.manifest.sample_table
        if table is not None:
            try:
                return self._read(
                    [SAMPLES_FILE], lambda: read_joined(self.path, self._folder, table)
                )
            except DamagedFileError as error:
                logger.warning("%s; reading the tables of its units instead", error)
        names = [f"{unit.number:05d}.parquet" for unit in units]
        return self._read(names, lambda: read_samples(self.path, self._folder, units))

    def with_samples(self, samples: pa.Table) -> "FeatureStore":
        """Return the same features with another sample table, such as some of its rows.

        Pairs that were planned for the whole table are dropped.
        """
        view = copy.copy(self)
        planned = [PAIRS_COLUMN] if PAIRS_COLUMN in samples.column_names else []
        view.__dict__["samples"] = samples.drop_columns(planned)  # where cached_property looks
        return view

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors, `<pooling>.<layer>`."""
        return list(self.manifest.tensors)

    @property
    def num_feature_rows(self) -> int:
        """Distinct (prompt, output) token sequences in the store."""
        return int(self._starts[-1])

    def gather(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of one tensor in the given order: [len(rows)] int64 -> [len(rows), width].

        Raises:
            FeatureStoreError: no such tensor, or its file is damaged.
            IndexError: a row is outside the store.
        """
        if name not in self.manifest.tensors:
            raise FeatureStoreError(
                f"{self.path}: has no tensor {name!r}, only {', '.join(self.tensor_names)};"
                " name it in featurize.layers and featurize.poolings and featurize again"
            )
        wanted = rows.detach().cpu().numpy().astype(np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.num_feature_rows):
            raise IndexError(f"feature rows must be in 0..{self.num_feature_rows - 1}")
        width, dtype = self.manifest.tensors[name], stored_as(name, DTYPES[self.manifest.dtype])
        row_bytes = width * dtype.itemsize
        if not len(wanted):
            return torch.empty((0, width), dtype=dtype)
        # NOTE: NumPy allocates huge pages, which cause fewer page faults while filled.
        target = np.empty((len(wanted), row_bytes), np.uint8)
        runs = plan_runs(wanted, self._starts, MOST_GAP_BYTES // row_bytes)
        shards = [self._file_name(unit) for unit in dict.fromkeys(runs.units)]
        self._read(shards, lambda: self._fill(target, name, runs))
        return torch.from_numpy(target).view(dtype)

    def read(self, name: str) -> torch.Tensor:
        """One whole tensor [num_feature_rows, width]."""
        return self.gather(name, torch.arange(self.num_feature_rows))

    def check_unit(self, unit: Unit) -> None:
        """Compare the files of a unit with their checksums, which reading does not do.

        Raises:
            DamagedFileError: a file is missing or has changed.
        """
        self._read(list(unit.files), lambda: self._compare(unit))

    def _read(self, names: Sequence[str], read: Callable[[], Value]) -> Value:
        """Read files; of a store at a URI their copies, once more if a damaged one was deleted.

        Raises:
            DamagedFileError: a file of the store itself is damaged.
        """
        if self._copies is None:
            return read()
        try:
            self._copies.fetch(names)
            return read()
        except DamagedFileError as error:
            if not self._copies.delete_damaged():
                raise
            logger.warning("%s: damaged copy (%s); downloading again", self.path, error.reason)
            self._shard.cache_clear()
            self._copies.fetch(names)
            return read()

    def _compare(self, unit: Unit) -> None:
        for name, expected in unit.files.items():
            try:
                is_same = checksum(self._folder / name) == expected["checksum"]
            except OSError as error:
                raise DamagedFileError(self.path, name, error) from error
            if not is_same:
                raise DamagedFileError(self.path, name, "another checksum")

    def _fill(self, target: npt.NDArray[np.uint8], name: str, runs: Runs) -> None:
        """Copy the bytes of the rows of `runs` into `target` [rows, row_bytes]."""
        row_bytes = target.shape[1]
        flat = target.reshape(-1)
        by_row = flat.view(f"V{row_bytes}")  # [len(wanted)]; copying whole items is faster
        view = flat.data
        for place, begin, end, unit, first, num_rows, is_direct in zip(
            runs.places, runs.begins, runs.ends, runs.units, runs.first_rows, runs.num_rows,
            runs.are_direct, strict=True,
        ):  # fmt: skip
            shard = self._shard(unit)
            offset = shard.spans[name].offset + first * row_bytes
            num_bytes = num_rows * row_bytes
            try:
                if is_direct:
                    start = place * row_bytes
                    shard.read_into(view[start : start + num_bytes], offset)
                else:
                    piece = np.frombuffer(shard.read(offset, num_bytes), by_row.dtype)
                    by_row[runs.order[begin:end]] = piece[runs.offsets[begin:end]]
            except (OSError, ValueError) as error:
                raise DamagedFileError(self.path, self._file_name(unit), error) from error

    def _file_name(self, unit: int) -> str:
        return f"{self.manifest.units[unit].number:05d}.safetensors"


def _open_shard(path: Path | str, folder: Path, manifest: Manifest, unit: int) -> Shard:
    """Open the shard of a unit and check its tensors against the manifest.

    Raises:
        FeatureStoreError: it is missing or damaged.
    """
    name = f"{manifest.units[unit].number:05d}.safetensors"
    try:
        shard = Shard(f"{folder}/{name}")
    except (OSError, ValueError) as error:
        raise DamagedFileError(path, name, error) from error
    rows = manifest.units[unit].feature_rows
    for tensor, width in manifest.tensors.items():
        span = shard.spans.get(tensor)
        dtype = "F32" if is_exact(tensor) else manifest.dtype
        if span is None or (span.shape, span.dtype) != ((rows, width), dtype):
            found = "nothing" if span is None else f"{span.dtype} {list(span.shape)}"
            expected = f"{dtype} {[rows, width]}"
            reason = f"{tensor} is {found} where the manifest says {expected}"
            raise DamagedFileError(path, name, reason)
    return shard


def _split_of(store: str | Path) -> str:
    """The split that a store's folder is named after, or SPLIT if it has another name."""
    name = str(store).rstrip("/").rpartition("/")[2]
    return name if name in SPLITS else "SPLIT"


class CachedFiles:
    """Files of a store, downloaded once and compared with their checksums.

    A copy with its final name was complete when it was downloaded, so it is checked again only
    when it cannot be read.
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

    def delete_damaged(self) -> list[str]:
        """Delete the copies that differ from the manifest; return their names."""
        damaged = [
            name
            for name in sorted(self._present)
            if not self._is_here(name)
            or checksum(self.folder / name) != self._expected[name]["checksum"]
        ]
        for name in damaged:
            (self.folder / name).unlink(missing_ok=True)
        self._present.difference_update(damaged)
        return damaged

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
