"""What a featurize run is asked for, and its plan: units, size and fingerprint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from featurize.data.index import DatasetIndex
from featurize.data.prompt import TEMPLATE
from featurize.files import digest
from featurize.model.backbone import BackboneSource, find_backbone
from featurize.model.device import resolve_device, resolve_dtype
from featurize.model.identity import model_files
from featurize.planning import plan_units
from featurize.recipe import Recipe, make_recipe
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    FeaturizeSettings,
    RuntimeSettings,
)
from featurize.store import Manifest, read_manifest

CHARS_PER_TOKEN = 3
"""For sizing units before anything is tokenised; programs run from 2.5 to 3.5."""


@dataclass(frozen=True, kw_only=True)
class FeaturizeJob:
    """What is asked for."""

    backbone: BackboneSettings
    dataset: DatasetSettings
    featurize: FeaturizeSettings
    runtime: RuntimeSettings
    split: str
    store_dir: Path
    cache_dir: Path
    limit_problems: int | None = None


@dataclass(frozen=True, kw_only=True)
class FeaturizePlan:
    """What will be done, and its size; made from the index and the backbone's files alone."""

    job: FeaturizeJob
    recipe: Recipe
    source: BackboneSource
    index: DatasetIndex = field(repr=False)
    units: tuple[tuple[int, int], ...]  # [start, stop) rows of the index
    num_read: int  # samples in the files
    fingerprint: str
    finished: Manifest | None  # of the same fingerprint: there is nothing to do

    def describe(self) -> dict[str, Any]:
        """The lines of the plan, and what it will cost."""
        tokens, rows = self.estimated_tokens, len(self.index)
        width = sum(self.store_widths)
        return {
            "samples read": self.num_read,
            "not selected": self.num_read - rows,
            "to featurize": rows,
            "problems": self.index.num_problems,
            "units of work": len(self.units),
            "tensors": ", ".join(self.recipe.spec.tensor_names)
            + (" and likelihood" if self.recipe.spec.likelihood else ""),
            "backbone": f"{self.job.backbone.name}, {self.recipe.fields['compute_dtype']},"
            f" {self.recipe.spec.deepest(self.recipe.num_layers)} of"
            f" {self.recipe.num_layers} layers",
            "tokens, about": tokens,
            "store, about": f"{rows * width * self.recipe.storage_dtype.itemsize / 1e6:,.0f} MB",
            "goes to": str(self.job.store_dir),
        }

    @property
    def store_widths(self) -> list[int]:
        """Width of each tensor."""
        return [self.recipe.hidden_size] * len(self.recipe.spec.tensor_names)

    @property
    def memory_bytes(self) -> int:
        """What a process on the CPU may need: the weights while they are converted, and a pack."""
        weights = sum(file.stat().st_size for file in model_files(self.source.folder))
        return 2 * weights + (1 << 30)

    @property
    def estimated_tokens(self) -> int:
        """Tokens to compute, each prompt once, from the number of characters."""
        return int(_group_chars(self.index, group_starts(self.index)).sum()) // CHARS_PER_TOKEN


def plan_featurize(job: FeaturizeJob) -> FeaturizePlan:
    """Reads and checks everything that can be known before the backbone is loaded.

    Raises:
        ValueError: bad data, an unreadable backbone, contradicting settings.
    """
    if job.featurize.token_budget < job.dataset.max_length:
        raise ValueError(
            f"featurize.token_budget {job.featurize.token_budget} is below dataset.max_length"
            f" {job.dataset.max_length}: the longest sample would not fit; raise it"
        )
    device = resolve_device(job.runtime.device)
    dtype = resolve_dtype(job.backbone.dtype, device, mixed_precision=job.runtime.mixed_precision)
    paths = job.dataset.path_of(job.split)
    index = DatasetIndex.build(paths, job.cache_dir / "index")
    num_read = len(index)
    if job.limit_problems is not None:
        index = index.take_problems(job.limit_problems)
    source = find_backbone(job.backbone, job.cache_dir, dtype)
    recipe = make_recipe(source, job.backbone, job.dataset, job.featurize, dtype)
    fingerprint = digest(
        {
            "recipe": recipe.fingerprint,
            "dataset": index.content_fingerprint,
            "unit_tokens": job.featurize.unit_tokens,
        }
    )
    manifest = read_manifest(job.store_dir)
    is_finished = manifest is not None and manifest.fingerprint == fingerprint
    return FeaturizePlan(
        job=job,
        recipe=recipe,
        source=source,
        index=index,
        units=tuple(_cut_units(index, job.featurize.unit_tokens)),
        num_read=num_read,
        fingerprint=fingerprint,
        finished=manifest if is_finished else None,
    )


def group_starts(index: DatasetIndex) -> np.ndarray:
    """Rows at which a new prompt begins, and the number of rows: int64 [prompts + 1]."""
    keys = index.table["prompt_key"].combine_chunks()
    is_new = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(index)]]).astype(np.int64)


def _cut_units(index: DatasetIndex, unit_tokens: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of each unit: consecutive whole problems of about `unit_tokens`."""
    starts = group_starts(index)
    sizes = _group_chars(index, starts) // CHARS_PER_TOKEN
    return [
        (int(starts[first]), int(starts[last]))
        for first, last in plan_units(sizes.tolist(), unit_tokens)
    ]


def _group_chars(index: DatasetIndex, starts: np.ndarray) -> np.ndarray:
    """Characters of each prompt and of all its distinct outputs: int64 [prompts]."""
    outputs = index.table["output_chars"].to_numpy().astype(np.int64)
    keys = index.table["output_key"].combine_chunks()
    # Rows of one prompt are sorted by output, so that a repeat stands behind its like.
    is_repeat = np.zeros(len(index), bool)
    is_repeat[1:] = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    is_repeat[starts[:-1]] = False
    prompts = index.table["prompt_chars"].to_numpy().astype(np.int64)[starts[:-1]]
    totals = np.add.reduceat(np.where(is_repeat, 0, outputs), starts[:-1])
    return np.asarray(totals + prompts + len(TEMPLATE))
