"""Stores of counted-up numbers and ways to damage them, for tests of the store itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import torch

from featurize.store.samples import LIKELIHOOD_COLUMNS, SAMPLE_SCHEMA
from featurize.store.writer import RemoteStoreWriter, StoreWriter, UnitFeatures

TENSORS = {"last.2": 32, "mean.2": 48}
RECIPE = {"backbone": "tiny", "layers": [2], "poolings": ["mean", "last"]}


def make_writer(
    path: Path,
    *,
    num_units: int = 2,
    fingerprint: str = "content",
    recipe_fingerprint: str = "recipe",
    recipe: Mapping[str, object] = RECIPE,
    uri: str | None = None,
    is_thorough: bool = False,
) -> StoreWriter:
    """A writer to `path`, or by way of `path` to a URI."""
    plan = {
        "fingerprint": fingerprint,
        "recipe_fingerprint": recipe_fingerprint,
        "recipe": dict(recipe),
        "num_units": num_units,
    }
    if uri is None:
        return StoreWriter(path, plan)
    return RemoteStoreWriter(uri, plan, path, is_thorough=is_thorough)


def make_samples(task_ids: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """A table of samples in Python, each of its own features; `columns` change it."""
    usual = {"language": "python", "prompt_tokens": 10}
    usual |= {"prompt_truncated": False, "output_truncated": False}
    default = {name: [usual.get(name)] * len(task_ids) for name in SAMPLE_SCHEMA.names}
    own = {"task_id": task_ids, "feature_row": list(range(len(task_ids)))}
    return pa.table(default | own | columns, schema=SAMPLE_SCHEMA)


def make_unit(
    number: int,
    *,
    rows: Sequence[int] = (0, 1, 1, 2),
    tensors: Mapping[str, int] = TENSORS,
    dtype: torch.dtype = torch.float32,
    likelihood: bool = False,
) -> UnitFeatures:
    """A unit with one sample for each of `rows`; all feature values of a store differ."""
    num_rows = max(rows) + 1
    places = range(len(rows))
    table = make_samples(
        [f"task-{number}-{place}" for place in places],
        problem_id=[f"problem-{number}" for _ in places],
        is_correct=[(True, False, None)[place % 3] for place in places],
        language=["python" if place else None for place in places],
        source=[f"source-{number}" for _ in places],
        prompt_tokens=[10 + number for _ in places],
        output_tokens=[1 + place for place in places],
        output_truncated=[place == 0 for place in places],
        feature_row=list(rows),
    )
    if likelihood:
        for name in LIKELIHOOD_COLUMNS:
            table = table.append_column(name, pa.array([float(-p) for p in places], pa.float32()))
    features = {
        name: 100.0 * number + 1000 * place + torch.arange(num_rows * width).reshape(-1, width)
        for place, (name, width) in enumerate(tensors.items())
    }
    return UnitFeatures(
        tensors={name: tensor.to(dtype) for name, tensor in features.items()}, samples=table
    )


def write_missing(path: Path, *, num_units: int = 2, **options: Any) -> list[int]:
    """Write or finish a store as a run does; returns the units that were missing."""
    writer = make_writer(path, num_units=num_units, **options)
    missing = writer.begin()
    for number in missing:
        writer.write_unit(number, make_unit(number), {"samples": 4, "duplicates": 1})
    writer.finish({"samples": 4 * num_units, "duplicates": num_units})
    return missing


def damage(path: Path, how: str) -> None:
    """Lose, empty, tear or lengthen a file, or flip a bit in its middle."""
    content = bytearray(path.read_bytes())
    if how == "lost":
        path.unlink()
        return
    if how == "flipped":
        content[len(content) // 2] ^= 4
    changed = {"empty": b"", "torn": content[:-2], "longer": content + b"\0", "flipped": content}
    path.write_bytes(changed[how])


def read_tree(path: Path) -> dict[str, bytes]:
    """Every file under `path` by its relative name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def read_uri(uri: str) -> dict[str, bytes]:
    """Every file at a URI in memory by its relative name."""
    files, root = fsspec.core.url_to_fs(uri)
    return {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}


def put(uri: str, content: bytes) -> None:
    """Write a file at a URI."""
    files, path = fsspec.core.url_to_fs(uri)
    files.pipe_file(path, content)
