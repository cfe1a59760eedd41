"""Prints what drawing pairs costs: from an index of 3.2M rows, and beside listing all of them.

    .venv/bin/python tests/benchmarks/bench_pairs.py

The rows are synthetic and have CodeContests' shape: 13,328 problems of very different sizes, four
languages, lengths that differ by label. Every way runs in a process of its own, which opens the
index from a file as `critic featurize --pairs` does; memory is the peak of that whole process.
"""

import argparse
import itertools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from headtrain.pairs.plan import plan_pairs
from headtrain.settings import DataSamplingSettings, PairwiseSettings
from tests.benchmarks.measuring import (
    Measured,
    in_fresh_process,
    measure,
    print_header,
    print_row,
)

LANGUAGES = ("cpp", "java", "python2", "python3")
DIFFICULTIES = ("easy", "medium", "hard")


def make_index(num_rows: int, num_problems: int) -> pa.Table:
    """The columns of an index that pairs are planned from, rows of a problem together."""
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0.0, 1.7, num_problems)
    problems = np.sort(rng.choice(num_problems, num_rows, p=sizes / sizes.sum()))
    languages = rng.choice(4, num_rows, p=(0.7, 0.1, 0.05, 0.15))
    labels = rng.random(num_rows) < rng.beta(2, 2, num_problems)[problems]
    tokens = rng.lognormal(5.0, 0.7, num_rows) * np.where(labels, 0.8, 1.0)

    def encoded(codes: np.ndarray, names: list[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)

    return pa.table(
        {
            "problem_id": encoded(problems, [f"problem-{n:05d}" for n in range(num_problems)]),
            "language": encoded(languages, list(LANGUAGES)),
            "difficulty": encoded(problems % 3, list(DIFFICULTIES)),
            "is_correct": labels,
            "output_tokens": (tokens.astype(np.int32) + 1),
        }
    )


def list_all(table: pa.Table, n_pairs: int) -> int:
    """The plain way: every combination in a list, of which some are drawn; returns how many."""
    cells: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    columns = (table[name].to_pylist() for name in ("problem_id", "language", "is_correct"))
    for row, (problem, language, label) in enumerate(zip(*columns, strict=True)):
        cells.setdefault((problem, language), ([], []))[not label].append(row)
    pairs = [pair for both in cells.values() for pair in itertools.product(*both)]
    random.Random(0).sample(pairs, min(n_pairs, len(pairs)))
    return len(pairs)


def draw(table: pa.Table, n_pairs: int, **pairwise: object) -> int:
    """The pairs of a setting; returns how many were possible."""
    settings = PairwiseSettings(n_pairs=n_pairs, **pairwise)  # type: ignore[arg-type]
    plan = plan_pairs(table, DataSamplingSettings(pairwise=settings))
    assert len(plan.correct) == n_pairs
    return plan.num_possible


WAYS: dict[str, Callable[[pa.Table, int], int]] = {
    "balanced": lambda table, n: draw(table, n),
    "uniform": lambda table, n: draw(table, n, strategy="uniform"),
    "balanced, cap 60": lambda table, n: draw(table, n, max_pairs_per_problem=60),
    "balanced, length matched": lambda table, n: draw(table, n, length_matched=True),
    "balanced, weighted": lambda table, n: draw(table, n, difficulties={"easy": 1, "hard": 0.5}),
    "listing all": list_all,
}


def measure_way(way: str, path: Path, n_pairs: int) -> Measured:
    """Run one way on the index in a file."""
    return measure(
        lambda: WAYS[way](pa.ipc.open_file(pa.memory_map(str(path))).read_all(), n_pairs)
    )


def write_index(path: Path, num_rows: int, num_problems: int) -> Path:
    """An index in a file."""
    table = make_index(num_rows, num_problems)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def main() -> None:
    """Runs every way in a process of its own and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_200_000)
    parser.add_argument("--problems", type=int, default=13_328)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--listed-rows", type=int, default=200_000, help="rows when all are listed")
    options = parser.parse_args()
    few, many = options.listed_rows, options.rows
    print_header("way", "rows", "possible pairs", "drawn", "seconds", "of CPU", "MB, peak")
    with tempfile.TemporaryDirectory() as folder:
        indexes = {
            rows: write_index(Path(folder) / f"{rows}.arrow", rows, options.problems)
            for rows in (few, many)
        }
        *drawn, listing = WAYS
        for way, rows in [("balanced", few), (listing, few), *((way, many) for way in drawn)]:
            took = in_fresh_process(measure_way, way, indexes[rows], options.pairs)
            print_row(
                *(way, f"{rows:,}", f"{took.found:,}", f"{options.pairs:,}"),
                *(f"{took.seconds:.2f}", f"{took.cpu_seconds:.2f}"),
                f"{took.peak_bytes / 2**20:,.0f}",
            )


if __name__ == "__main__":
    main()
