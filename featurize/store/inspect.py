"""Reports what a store is, how it was made, and whether it is intact; needs no configuration."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.errors import FeatureStoreError
from featurize.io.remote import Folder, open_folder
from featurize.store.manifest import (
    SAMPLES_FILE,
    DamagedFileError,
    Manifest,
    lost_files,
    repair_command,
)
from featurize.store.reader import FeatureStore

TENSOR_COLUMNS = (
    "tensor",
    "width",
    "smallest norm",
    "mean norm",
    "largest norm",
    "rows with NaN/inf",
)

Progress = Callable[[int, int], None]
"""Called with the number of units done and the number in all."""


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """Statistics of one tensor over all readable rows."""

    width: int
    smallest_norm: float  # Euclidean, of a row
    mean_norm: float
    largest_norm: float
    num_bad: int  # rows with a NaN or inf


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """What `inspect_store` found."""

    path: str
    recipe: dict[str, Any]
    fingerprint: str
    command: str | None  # that made it
    num_units: int
    num_unfinished: int = 0  # missing units, only without a manifest
    counts: dict[str, int] = field(default_factory=dict)
    bytes_of: dict[str, int] = field(default_factory=dict)  # by kind of file
    labels: dict[str, int] = field(default_factory=dict)  # of the samples
    tensors: dict[str, TensorFacts] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)  # unit -> what is wrong
    were_checksums_read: bool = False
    damaged_table: str | None = None  # what is wrong with the joined sample table

    def describe(self) -> dict[str, Any]:
        """The lines of the table."""
        recipe, counts = dict(self.recipe), dict(self.counts)
        backbone = recipe.pop("backbone", None)
        if isinstance(backbone, dict):
            backbone = ", ".join(f"{key} {value}" for key, value in backbone.items())
        num_finished = self.num_units - self.num_unfinished
        lines = {
            "made by": self.command,
            "fingerprint": self.fingerprint,
            "backbone": backbone,
            **{name.replace("_", " "): _show(value) for name, value in recipe.items()},
            "units": f"{num_finished:,} of {self.num_units:,}",
            **{name.replace("_", " "): value for name, value in counts.items()},
            **self.labels,
            **{name: f"{size / 1e6:,.1f} MB" for name, size in self.bytes_of.items()},
        }
        if self.num_unfinished:
            return lines
        whole = "all correct" if self.were_checksums_read else "not read (--verify reads them)"
        damaged = len(self.damaged) + (self.damaged_table is not None)
        return lines | {"checksums": f"{damaged:,} damaged" if damaged else whole}

    def describe_tensors(self) -> list[tuple[Any, ...]]:
        """Rows of the table of tensors, under TENSOR_COLUMNS."""
        return [
            (name, f.width, f.smallest_norm, f.mean_norm, f.largest_norm, f.num_bad)
            for name, f in self.tensors.items()
        ]

    @property
    def remedy(self) -> str:
        """The command that redoes only what is damaged or missing."""
        is_damaged = self.damaged or self.damaged_table
        if is_damaged or self.command is None:
            return repair_command(self.path)
        return f"`{self.command}`"

    def check(self) -> None:
        """Raise FeatureStoreError unless the store is intact."""
        bad = [name for name, facts in self.tensors.items() if facts.num_bad]
        found = [f"unit {number} ({reason})" for number, reason in sorted(self.damaged.items())]
        found += [] if self.damaged_table is None else [self.damaged_table]
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise FeatureStoreError(
                f"{self.path}: damaged: {', '.join(found[:3])}{more}; redo only that with"
                f" {self.remedy}"
            )
        if self.num_unfinished:
            raise FeatureStoreError(
                f"{self.path}: {self.num_unfinished} of {self.num_units} units are not finished;"
                f" resume with {self.remedy}"
            )
        if bad:
            raise FeatureStoreError(
                f"{self.path}: NaN or inf in {', '.join(bad)}; make it again with --overwrite"
            )


def inspect_store(
    path: Path | str,
    *,
    verify: bool = False,
    cache_dir: Path | None = None,
    progress: Progress = lambda _done, _total: None,
) -> StoreReport:
    """Inspect everything readable; the report lists what is not.

    Args:
        path: folder or URI of the store, finished or not.
        verify: also read every file and compare its checksum.
        cache_dir: folder for downloaded files of a store at a URI.
        progress: called for every unit.

    Raises:
        FeatureStoreError: there is no store, or its manifest is damaged.
    """
    folder = open_folder(path)
    plan = _read_plan(folder)
    try:
        store = FeatureStore.open(path, cache_dir)
    except FeatureStoreError:
        if plan is None or folder.read("manifest.json") is not None:
            raise
        receipts = [name for name in folder.sizes("units") if name.endswith(".json")]
        return StoreReport(
            path=str(path),
            recipe=plan["recipe"],
            fingerprint=plan["fingerprint"],
            command=plan.get("command") or None,
            num_units=plan["num_units"],
            num_unfinished=plan["num_units"] - len(receipts),
        )
    manifest = store.manifest
    damage = _find_damage(path, folder, manifest, verify=verify)
    damaged = {
        unit.number: damage[name]
        for unit in manifest.units
        for name in unit.files
        if name in damage
    }
    tensors, unreadable = _measure(store, damaged, progress)
    damaged |= unreadable
    return StoreReport(
        path=str(path),
        recipe=manifest.recipe,
        fingerprint=manifest.fingerprint,
        command=None if plan is None else plan.get("command") or None,
        num_units=len(manifest.units),
        counts=manifest.counts,
        bytes_of=_sum_bytes(manifest),
        labels={} if damaged else _count_labels(store.samples),
        tensors=tensors,
        damaged=damaged,
        damaged_table=damage.get(SAMPLES_FILE),
        were_checksums_read=verify,
    )


def _read_plan(folder: Folder) -> dict[str, Any] | None:
    content = folder.read("plan.json")
    try:
        return None if content is None else dict(json.loads(content))
    except ValueError:
        return None  # the manifest says the same


def _find_damage(
    path: Path | str, folder: Folder, manifest: Manifest, *, verify: bool
) -> dict[str, str]:
    """Files that differ from the manifest: name -> what is wrong."""
    damage = {name: f"{name}: {how}" for name, how in lost_files(path, manifest).items()}
    for name, expected in manifest.files.items() if verify else ():
        if name not in damage and folder.checksum(f"units/{name}") != expected["checksum"]:
            damage[name] = f"{name}: another checksum"
    return damage


def _measure(
    store: FeatureStore, damaged: dict[int, str], progress: Progress
) -> tuple[dict[str, TensorFacts], dict[int, str]]:
    """Statistics of each tensor over intact units, and the units that cannot be read."""
    norms: dict[str, list[torch.Tensor]] = {name: [] for name in store.tensor_names}
    unreadable = {}
    start = 0
    for done, unit in enumerate(store.manifest.units, 1):
        rows = torch.arange(start, start + unit.feature_rows)
        start += unit.feature_rows
        try:
            for name in [] if unit.number in damaged else store.tensor_names:
                norms[name].append(store.gather(name, rows).double().norm(dim=1))  # [rows]
        except DamagedFileError as error:
            unreadable[unit.number] = error.reason
        progress(done, len(store.manifest.units))
    widths = store.manifest.tensors
    return {name: _facts(widths[name], found) for name, found in norms.items() if found}, unreadable


def _facts(width: int, norms: list[torch.Tensor]) -> TensorFacts:
    whole = torch.cat(norms)
    good = whole[whole.isfinite()]  # a NaN or inf in a row makes its norm one
    values = good if len(good) else torch.full((1,), torch.nan)
    return TensorFacts(
        width=width,
        smallest_norm=float(values.min()),
        mean_norm=float(values.mean()),
        largest_norm=float(values.max()),
        num_bad=len(whole) - len(good),
    )


def _sum_bytes(manifest: Manifest) -> dict[str, int]:
    total = {"features": 0, "sample tables": 0}
    for name, file in manifest.files.items():
        kind = "features" if name.endswith(".safetensors") else "sample tables"
        total[kind] += file["bytes"]
    return total


def _count_labels(samples: pa.Table) -> dict[str, int]:
    """Counts of labels, and of repeated ids."""
    labels = samples["is_correct"]
    return {
        "problems": pc.count_distinct(samples["problem_id"]).as_py(),
        "correct": pc.sum(labels).as_py() or 0,
        "incorrect": pc.sum(pc.invert(labels)).as_py() or 0,
        "without a label": labels.null_count,
        "task_ids that are not unique": len(samples)
        - pc.count_distinct(samples["task_id"]).as_py(),
    }


def _show(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
