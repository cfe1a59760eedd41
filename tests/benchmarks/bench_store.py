"""Reading a large feature store against raw reads of the same bytes, and what safety costs.

    python -m tests.benchmarks.bench_store                       # 3.2 million narrow rows
    python -m tests.benchmarks.bench_store --rows 600000 --width 4096 --rows-per-unit 250
    python -m tests.benchmarks.bench_store --overhead            # of checksums, fsync and claims

Prints ratios; the machine's own speed cancels out. Reads come from the page cache, where the
program's part is largest. The store is removed afterwards.
"""

import argparse
import contextlib
import functools
import json
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import torch

from featurize.store import FeatureStore
from featurize.store.samples import SAMPLE_SCHEMA, read_samples
from featurize.store.writer import StoreWriter, UnitFeatures

NAME = "mean.2"
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_200_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rows-per-unit", type=int, default=250)
    parser.add_argument("--gather", type=int, default=100_000)
    parser.add_argument("--overhead", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        if options.overhead:
            measure_overhead(Path(folder))
        else:
            measure_reading(Path(folder) / "train", options)


# --- reading


def measure_reading(path: Path, options: argparse.Namespace) -> None:
    """Open, sample table, random and sequential gather."""
    num_units = options.rows // options.rows_per_unit
    seconds = clock(lambda: make_store(path, num_units, options.rows_per_unit, options.width))
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    print(f"{options.rows:,} rows of {options.width}, {num_units:,} units, {size / 1e9:.2f} GB")
    print(f"written in {seconds:.0f} s (without fsync)")
    rows = np.random.default_rng(0).integers(0, options.rows, options.gather)
    results = [in_child(lambda: read_once(path, rows)) for _ in range(ROUNDS)]
    best = {key: min(result[key] for result in results) for key in results[0]}
    asked = options.gather * options.width * 2
    print(f"open                   {best['open'] * 1e3:8.1f} ms")
    print(f"sample table           {best['samples']:8.2f} s")
    print(f"  from the units' own  {best['unit_samples']:8.2f} s   ratio"
          f" {best['unit_samples'] / best['samples']:.1f}")  # fmt: skip
    print(f"gather {options.gather:,} random  {best['gather']:8.3f} s")
    for way in ("pread", "mmap"):
        print(
            f"  raw {way:5}            {best[way]:8.3f} s   ratio {best[way] / best['gather']:.2f}"
        )
    print(f"gather {options.gather:,} in a row{best['sequential']:8.3f} s")
    print(f"  raw pread            {best['raw_sequential']:8.3f} s   ratio"
          f" {best['raw_sequential'] / best['sequential']:.2f}")  # fmt: skip
    print(f"memory of the gather   {best['memory'] / 1e6:8.0f} MB, asked for {asked / 1e6:.0f} MB")


def read_once(path: Path, rows: np.ndarray) -> dict[str, float]:
    """Seconds of each way of reading, in a process of its own; bytes of memory of the gather."""
    result = {}
    start = time.perf_counter()
    store = FeatureStore.open(path)
    result["open"] = time.perf_counter() - start
    wanted = torch.from_numpy(rows)
    in_a_row = torch.arange(len(rows))
    store.gather(NAME, wanted[:10])
    before = peak_bytes()
    result["gather"] = clock(lambda: store.gather(NAME, wanted))
    result["memory"] = peak_bytes() - before
    result["sequential"] = clock(lambda: store.gather(NAME, in_a_row))
    shards = Shards(path, store)
    check = [shards.by_pread(rows), shards.by_mmap(rows)]
    assert all(np.array_equal(raw, store.gather(NAME, wanted).view(torch.uint8)) for raw in check)
    result["pread"] = clock(lambda: shards.by_pread(rows))
    result["mmap"] = clock(lambda: shards.by_mmap(rows))
    result["raw_sequential"] = clock(lambda: shards.by_pread(in_a_row.numpy(), whole=True))
    units = store.manifest.units
    result["unit_samples"] = clock(lambda: read_samples(path, path / "units", units))
    result["samples"] = clock(lambda: store.samples)
    return result


class Shards:
    """The same bytes without the store: offsets known, files opened once, rows sorted by file."""

    def __init__(self, path: Path, store: FeatureStore) -> None:
        units = store.manifest.units
        self.files = [path / "units" / f"{unit.number:05d}.safetensors" for unit in units]
        self.per_unit = units[0].feature_rows
        self.row_bytes = store.manifest.tensors[NAME] * 2
        self.offset = self.files[0].stat().st_size - self.per_unit * self.row_bytes

    def _by_file(self, rows: np.ndarray) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
        order = np.argsort(rows, kind="stable")
        units = rows[order] // self.per_unit
        for places in np.split(order, np.flatnonzero(np.diff(units)) + 1):
            yield self.files[rows[places[0]] // self.per_unit], places, rows[places] % self.per_unit

    def by_pread(self, rows: np.ndarray, *, whole: bool = False) -> np.ndarray:
        """One call a row, or one a file when all its rows are wanted."""
        out = np.empty((len(rows), self.row_bytes), np.uint8)
        for file, places, local in self._by_file(rows):
            descriptor = os.open(file, os.O_RDONLY)
            if whole:
                start = self.offset + int(local[0]) * self.row_bytes
                os.preadv(descriptor, [out[places[0] : places[-1] + 1].reshape(-1)], start)
            else:
                for place, row in zip(places.tolist(), local.tolist(), strict=True):
                    os.preadv(descriptor, [out[place]], self.offset + row * self.row_bytes)
            os.close(descriptor)
        return out

    def by_mmap(self, rows: np.ndarray) -> np.ndarray:
        """Each file mapped once, rows picked by NumPy."""
        out = np.empty((len(rows), self.row_bytes), np.uint8)
        for file, places, local in self._by_file(rows):
            with file.open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                shape = (self.per_unit, self.row_bytes)
                out[places] = np.frombuffer(mapped, np.uint8, offset=self.offset).reshape(shape)[
                    local
                ]
        return out


def make_store(path: Path, num_units: int, rows_per_unit: int, width: int) -> None:
    """A finished store of random bfloat16 numbers; not synced, which would take longer."""
    writer = make_writer(path, num_units)
    with mock.patch("os.fsync"):
        writer.begin()
        for number in range(num_units):
            writer.write_unit(number, make_unit(number, rows_per_unit, width), {})
        writer.finish({"samples": num_units * rows_per_unit})


def make_writer(path: Path, num_units: int) -> StoreWriter:
    plan = {"fingerprint": "f", "recipe_fingerprint": "r", "recipe": {}, "num_units": num_units}
    return StoreWriter(path, plan)


@functools.cache  # drawing them takes longer than writing them
def random_rows(num_rows: int, width: int) -> torch.Tensor:
    return torch.randn(num_rows, width).to(torch.bfloat16)


def make_unit(number: int, num_rows: int, width: int) -> UnitFeatures:
    """Features and a sample table as those of CodeContests are."""
    columns = {
        "task_id": [f"problem-{number}-solution-{row}" for row in range(num_rows)],
        "problem_id": [f"problem-{number}"] * num_rows,
        "is_correct": [row % 2 == 0 for row in range(num_rows)],
        "language": ["python"] * num_rows,
        "difficulty": ["7"] * num_rows,
        "source": ["codeforces"] * num_rows,
        "prompt_tokens": [500] * num_rows,
        "output_tokens": list(range(num_rows)),
        "prompt_truncated": [False] * num_rows,
        "output_truncated": [False] * num_rows,
        "feature_row": list(range(num_rows)),
    }
    tensor = random_rows(num_rows, width).roll(number, 1)  # no two units alike
    return UnitFeatures(tensors={NAME: tensor}, samples=pa.table(columns, schema=SAMPLE_SCHEMA))


# --- what safety costs


def measure_overhead(folder: Path) -> None:
    """Seconds of a unit's writing, checks and claim, against those of computing it."""
    from transformers import LlamaConfig, LlamaModel

    unit = make_unit(0, 250, 4096)  # 65,536 tokens of a 7B model's features
    writer = make_writer(folder / "train", 1000)
    writer.begin()
    times = [clock(lambda n=n: writer.write_unit(n, unit, {})) for n in range(20)]  # type: ignore[misc]
    checks = clock(writer.finished_units) / len(times)
    claims = measure_claims()
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152,
    )  # fmt: skip
    model = LlamaModel(config).eval()
    tokens = torch.randint(0, 49152, (1, 1024))
    with torch.inference_mode():
        model(tokens)
        compute = clock(lambda: model(tokens)) / 1024 * 65_536
    write, both = sorted(times)[len(times) // 2], 2 * checks
    print(
        f"write a unit of {250 * 8192 / 1e6:.0f} MB with checksums and fsync {write * 1e3:.1f} ms"
    )
    print(
        f"check it, when a run begins and ends {both * 1e3:.1f} ms; claim it {claims * 1e3:.2f} ms"
    )
    total = write + both + claims
    print(f"compute it: 135M backbone, one core {compute:.0f} s: overhead {total / compute:.3%}")
    for name, speed in (("7B at 400 TFLOP/s", 400e12 / (2 * 6.7e9)),):
        seconds = 65_536 / speed
        print(f"            {name} {seconds:.1f} s: overhead {total / seconds:.2%},"
              f" of which {claims / seconds:.3%} is not hidden behind the next unit")  # fmt: skip


def measure_claims() -> float:
    """Seconds of one claim in the key-value store that ranks share."""
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, 1, is_master=True)
    return clock(lambda: [store.add("claimed", 1) for _ in range(1000)]) / 1000


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_child(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The result of work in a fork, whose peak of memory is its own."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    os.wait()
    result: dict[str, float] = json.loads(content)
    return result


if __name__ == "__main__":
    main()
