"""Feature stores of random numbers, for tests of stage 2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from featurize.model.pooling import segment_ends
from featurize.store import FeatureStore
from featurize.store.samples import LIKELIHOOD_COLUMNS
from featurize.store.shards import SEGMENT_TOKENS, segments_name
from featurize.store.writer import UnitFeatures
from tests.support.unit_features import make_samples, make_writer


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
    segments: int | None = None,
    authors: bool = False,
    prefix: str = "",
) -> FeatureStore:
    """Write a store in which every feature of a correct sample is `signal` higher on average.

    Labels alternate within a problem unless `labels` gives one per sample. With `segments` the
    tensors are those of so many segments and the means of two layers, 8 wide. `authors` names four
    in turn; `prefix` begins the ids.
    """
    rng = np.random.default_rng(seed)
    total = num_problems * samples_per_problem
    if labels is None:
        labels = [bool(place % 2) for place in range(total)]
    writer = make_writer(
        path,
        num_units=units,
        fingerprint=fingerprint,
        recipe_fingerprint=recipe_fingerprint,
        recipe={"backbone": "none"},
    )
    writer.begin()
    for number, places in enumerate(np.array_split(np.arange(total), units)):
        level = np.array([signal if labels[place] else 0.0 for place in places])
        output_tokens = rng.integers(5, 50, len(places)).tolist()
        problems = [place // samples_per_problem for place in places]
        table = make_samples(
            [f"{prefix}task-{place:05d}" for place in places],
            problem_id=[f"{prefix}problem-{problem:03d}" for problem in problems],
            is_correct=[labels[place] for place in places],
            output_tokens=output_tokens,
        )
        if likelihood:
            for name in LIKELIHOOD_COLUMNS:
                values = (rng.normal(size=len(places)) + level).astype(np.float32)
                table = table.append_column(name, pa.array(values))
        features = {
            name: torch.from_numpy(rng.normal(size=(len(places), width)) + level[:, None]).to(dtype)
            for name, width in (tensors or {"mean.2": 32}).items()
        }
        if segments is not None:
            features = _segment_features(rng, level, output_tokens, segments)
        if authors:
            table = table.append_column("author", pa.array([f"author-{p % 4}" for p in places]))
        writer.write_unit(
            number, UnitFeatures(tensors=features, samples=table), {"samples": len(places)}
        )
    writer.finish({"samples": total})
    return FeatureStore.open(path)


def _segment_features(
    rng: np.random.Generator, level: np.ndarray, output_tokens: Sequence[int], num_segments: int
) -> dict[str, torch.Tensor]:
    """Random segments of two layers, and what follows from them."""
    tokens = segment_ends(torch.tensor(output_tokens), num_segments).diff(dim=1).float()
    shares = tokens / tokens.sum(dim=1, keepdim=True)
    features = {SEGMENT_TOKENS: tokens}
    for layer in (2, 4):
        states = rng.normal(size=(len(level), num_segments, 8)) + level[:, None, None] + layer
        own = torch.from_numpy(states).float().where(tokens[:, :, None] > 0, 0.0)
        features[segments_name(layer)] = own.flatten(1)
        features[f"mean.{layer}"] = torch.einsum("rk,rkw->rw", shares, own)
    return features


def replace_samples(store: FeatureStore, samples: pa.Table) -> FeatureStore:
    """The same store with another sample table."""
    other = FeatureStore.open(store.path)
    other.__dict__["samples"] = samples  # where the cached property keeps them
    return other


def replace_column(store: FeatureStore, name: str, values: pa.Array) -> FeatureStore:
    place = store.samples.schema.get_field_index(name)
    return replace_samples(store, store.samples.set_column(place, name, values))
