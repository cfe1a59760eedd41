"""Units of a feature store made of counting numbers, for tests of the store itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch

from featurize.store import LIKELIHOOD_COLUMNS, SAMPLE_SCHEMA, StoreWriter, UnitFeatures

TENSORS = {"last.2": 32, "mean.2": 48}
RECIPE = {"backbone": "tiny", "layers": [2], "poolings": ["mean", "last"]}


def make_writer(
    path: Path,
    *,
    num_units: int = 2,
    fingerprint: str = "content",
    recipe: Mapping[str, object] = RECIPE,
) -> StoreWriter:
    plan = {
        "fingerprint": fingerprint,
        "recipe_fingerprint": "recipe",
        "recipe": dict(recipe),
        "num_units": num_units,
    }
    return StoreWriter(path, plan)


def make_unit(
    number: int,
    *,
    rows: Sequence[int] = (0, 1, 1, 2),
    tensors: Mapping[str, int] = TENSORS,
    dtype: torch.dtype = torch.float32,
    likelihood: bool = False,
) -> UnitFeatures:
    """A unit of one sample for each of `rows`; no two features of a store are the same number."""
    num_rows = max(rows) + 1
    places = range(len(rows))
    columns = {
        "task_id": [f"task-{number}-{place}" for place in places],
        "problem_id": [f"problem-{number}" for _ in places],
        "is_correct": [(True, False, None)[place % 3] for place in places],
        "language": ["python" if place else None for place in places],
        "difficulty": [None for _ in places],
        "source": [f"source-{number}" for _ in places],
        "prompt_tokens": [10 + number for _ in places],
        "output_tokens": [1 + place for place in places],
        "prompt_truncated": [False for _ in places],
        "output_truncated": [place == 0 for place in places],
        "feature_row": list(rows),
    }
    table = pa.table(columns, schema=SAMPLE_SCHEMA)
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


def write_missing(path: Path, *, num_units: int = 2) -> list[int]:
    """Makes or finishes the store in `path`, as a run does; returns the units it had to write."""
    writer = make_writer(path, num_units=num_units)
    writer.begin()
    finished = writer.finished_units()
    missing = [number for number in range(num_units) if number not in finished]
    for number in missing:
        writer.write_unit(number, make_unit(number), {"samples": 4, "duplicates": 1})
    writer.finish({"samples": 4 * num_units, "duplicates": num_units})
    return missing


def read_tree(path: Path) -> dict[str, bytes]:
    """Every file under `path` by its relative name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
