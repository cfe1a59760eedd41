"""What a store is, from what it was made and whether it is whole; needs no configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from featurize.errors import FeatureStoreError
from featurize.io.remote import Folder, open_folder
from featurize.store.format import SAMPLES_FILE, DamagedFileError, Manifest, lost_files
from featurize.store.reader import FeatureStore
from featurize.store.report import StoreReport, TensorFacts

Progress = Callable[[int, int], None]
"""Hears how many units of how many are done."""


def inspect_store(
    path: Path | str,
    *,
    verify: bool = False,
    cache_dir: Path | None = None,
    progress: Progress = lambda _done, _total: None,
) -> StoreReport:
    """Looks at everything that can be read; what cannot is in the report.

    Args:
        path: folder or URI of the store, finished or not.
        verify: also read every file and compare its checksum.
        cache_dir: where files of a store at a URI are kept.
        progress: hears of every unit.

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
        return _report_unfinished(path, folder, plan)
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
        num_unfinished=0,
        counts=manifest.counts,
        bytes_of=_sum_bytes(manifest),
        labels={} if damaged else _count_labels(store.samples),
        tensors=tensors,
        damaged=damaged,
        damaged_table=damage.get(SAMPLES_FILE),
        were_checksums_read=verify,
    )


def _report_unfinished(path: Path | str, folder: Folder, plan: dict[str, Any]) -> StoreReport:
    receipts = [name for name in folder.sizes("units") if name.endswith(".json")]
    return StoreReport(
        path=str(path),
        recipe=plan["recipe"],
        fingerprint=plan["fingerprint"],
        command=plan.get("command") or None,
        num_units=plan["num_units"],
        num_unfinished=plan["num_units"] - len(receipts),
        counts={},
        bytes_of={},
        labels={},
        tensors={},
        damaged={},
        were_checksums_read=False,
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
    """Files that are not as the manifest says, and how."""
    damage = {name: f"{name}: {how}" for name, how in lost_files(path, manifest).items()}
    for name, expected in manifest.files.items() if verify else ():
        if name not in damage and folder.checksum(f"units/{name}") != expected["checksum"]:
            damage[name] = f"{name}: another checksum"
    return damage


def _measure(
    store: FeatureStore, damaged: dict[int, str], progress: Progress
) -> tuple[dict[str, TensorFacts], dict[int, str]]:
    """Facts of each tensor over the whole units, and the units that turn out to be unreadable."""
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
        least_norm=float(values.min()),
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
    """Who is labelled how, and what stands in the table more than once."""
    labels = samples["is_correct"]
    return {
        "problems": pc.count_distinct(samples["problem_id"]).as_py(),
        "correct": pc.sum(labels).as_py() or 0,
        "incorrect": pc.sum(pc.invert(labels)).as_py() or 0,
        "without a label": labels.null_count,
        "task_ids that are not unique": len(samples)
        - pc.count_distinct(samples["task_id"]).as_py(),
    }
