"""Prints what the number format of stored features does to valid pairwise accuracy.

    .venv/bin/python tests/benchmarks/storage_dtype.py --config configs/demo.yaml

Needs the train and valid stores of the config, featurized with storage_dtype float32. They are
written again in each format, which is what featurizing in it would have given, and a head is
trained on each with the config's settings, for several seeds.
"""

import argparse
import logging
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from configs.config import Config, Layout
from configs.loader import load_config
from featurize.errors import FeatureStoreError
from featurize.store import FeatureStore
from featurize.store.writer import StoreWriter, UnitFeatures
from headtrain.tracking.tracker import NullTracker
from headtrain.training.run import train_head


def write_in(dtype: torch.dtype, store: FeatureStore, path: Path) -> FeatureStore:
    """The same store with its tensors in another format, as one unit."""
    recipe = {**store.manifest.recipe, "storage_dtype": str(dtype).removeprefix("torch.")}
    plan = {
        "fingerprint": f"{store.manifest.fingerprint}-{dtype}",
        "recipe_fingerprint": f"{store.manifest.recipe_fingerprint}-{dtype}",
        "recipe": recipe,
        "num_units": 1,
    }
    writer = StoreWriter(path, plan)
    writer.begin()
    tensors = {name: store.read(name).to(dtype) for name in store.tensor_names}
    writer.write_unit(0, UnitFeatures(tensors=tensors, samples=store.samples), {})
    writer.finish({})
    return FeatureStore.open(path)


def accuracies(
    config: Config, train: FeatureStore, valid: FeatureStore, seeds: int, folder: Path
) -> list[tuple[float, float]]:
    """Valid accuracy (over problems, over pairs) of a head a seed."""
    found = []
    for seed in range(seeds):
        result = train_head(
            train=train,
            valid=valid,
            training=config.training,
            sampling=config.data_sampling,
            checkpoint=config.checkpoint,
            device=torch.device("cpu"),
            seed=seed,
            run_config={},
            checkpoint_dir=folder / str(seed),
            tracker=NullTracker(),
        )
        assert result.valid_over_problems is not None
        assert result.valid_over_pairs is not None
        found.append((result.valid_over_problems, result.valid_over_pairs))
    return found


def main() -> None:
    """Compares float32, bfloat16 and float16."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    config = load_config(options.config, options.overrides)
    layout = Layout(config)
    stores = {name: FeatureStore.open(layout.features_dir(name)) for name in ("train", "valid")}
    size = sum(
        tensor.numel() for n in stores["train"].tensor_names for tensor in [stores["train"].read(n)]
    )
    print("| storage | bytes a value | train store | over problems | over pairs |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        with tempfile.TemporaryDirectory() as folder:
            try:
                train, valid = (
                    write_in(dtype, store, Path(folder) / split) for split, store in stores.items()
                )
            except FeatureStoreError as error:
                print(f"| {name} | {dtype.itemsize} | - | overflows: {error} | |")
                continue
            found = accuracies(config, train, valid, options.seeds, Path(folder) / "heads")
        columns = [
            f"{statistics.mean(values):.3f} +- {statistics.pstdev(values):.3f}"
            for values in zip(*found, strict=True)
        ]
        megabytes = size * dtype.itemsize / 1e6
        print(f"| {name} | {dtype.itemsize} | {megabytes:.1f} MB | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
