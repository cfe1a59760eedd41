"""Feature stores of random numbers, for tests of stage 2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from featurize.store import (
    LIKELIHOOD_COLUMNS,
    SAMPLE_SCHEMA,
    FeatureStore,
    StoreWriter,
    UnitFeatures,
)


def write_store(
    path: Path,
    *,
    num_problems: int = 12,
    samples_per_problem: int = 8,
    tensors: Mapping[str, int] | None = None,
    signal: float = 1.0,
    likelihood: bool = False,
    labels: Sequence[bool | None] | None = None,
    dtype: torch.dtype = torch.float32,
    recipe_fingerprint: str = "recipe",
    fingerprint: str = "content",
    units: int = 2,
    seed: int = 0,
) -> FeatureStore:
    """Write a store in which every feature of a correct sample is `signal` higher on average.

    Labels alternate within a problem unless `labels` gives one per sample.
    """
    rng = np.random.default_rng(seed)
    total = num_problems * samples_per_problem
    if labels is None:
        labels = [bool(place % 2) for place in range(total)]
    writer = StoreWriter(
        path,
        {
            "fingerprint": fingerprint,
            "recipe_fingerprint": recipe_fingerprint,
            "recipe": {"backbone": "none"},
            "num_units": units,
        },
    )
    writer.begin()
    for number, places in enumerate(np.array_split(np.arange(total), units)):
        level = np.array([signal if labels[place] else 0.0 for place in places])
        columns = {
            "task_id": [f"task-{place:05d}" for place in places],
            "problem_id": [f"problem-{place // samples_per_problem:03d}" for place in places],
            "is_correct": [labels[place] for place in places],
            "language": ["python"] * len(places),
            "difficulty": [None] * len(places),
            "source": [None] * len(places),
            "prompt_tokens": [10] * len(places),
            "output_tokens": rng.integers(5, 50, len(places)).tolist(),
            "prompt_truncated": [False] * len(places),
            "output_truncated": [False] * len(places),
            "feature_row": list(range(len(places))),
        }
        table = pa.table(columns, schema=SAMPLE_SCHEMA)
        if likelihood:
            for name in LIKELIHOOD_COLUMNS:
                values = (rng.normal(size=len(places)) + level).astype(np.float32)
                table = table.append_column(name, pa.array(values))
        features = {
            name: torch.from_numpy(rng.normal(size=(len(places), width)) + level[:, None]).to(dtype)
            for name, width in (tensors or {"mean.2": 32}).items()
        }
        writer.write_unit(number, UnitFeatures(tensors=features, samples=table), {})
    writer.finish({"samples": total})
    return FeatureStore.open(path)


def replace_samples(store: FeatureStore, samples: pa.Table) -> FeatureStore:
    """The same store with another sample table."""
    other = FeatureStore.open(store.path)
    other.__dict__["samples"] = samples  # where the cached property keeps them
    return other


def replace_column(store: FeatureStore, name: str, values: pa.Array) -> FeatureStore:
    place = store.samples.schema.get_field_index(name)
    return replace_samples(store, store.samples.set_column(place, name, values))
