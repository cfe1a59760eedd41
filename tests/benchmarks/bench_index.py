"""Prints what indexing a large dataset costs beside the plain way: `json.loads` line by line.

    .venv/bin/python tests/benchmarks/bench_index.py --rows 3200000 --folder /big/disk

Writes rows of CodeContests' shape (about 3 KB a row, 240 rows a statement), reads them both ways in
processes of their own, and removes them. The ways take turns, because a shared machine changes its
speed.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from featurize.data.index import DatasetIndex
from tests.benchmarks.measuring import (
    Measured,
    in_fresh_process,
    measure,
    print_header,
    print_row,
)

ROWS_OF_A_PROBLEM = 240
TEXT = """
the of a and to in is number integers given you for each that are it contains first line by
Vasya array string length output print input test cases minimum maximum 1 ≤ n ≤ 10^5 such sum
possible answer exactly two edges vertices tree “good” moves player wins if there no …
"""
WORDS = TEXT.split()
LANGUAGES = ("python3", "cpp", "java")
INDEXING = {"critic, 1 process": 1, "critic, 2 processes": 2, "critic, second open": None}
"""Ways, and their processes."""


def write_rows(path: Path, num_rows: int, *, is_shuffled: bool) -> None:
    """Write a dataset as `critic prepare codecontests` does, problem by problem."""
    ways = random.Random(0)
    pool = [json.dumps(_code_line(ways), ensure_ascii=False)[1:-1] for _ in range(4000)]
    with path.open("w", encoding="utf-8") as file:
        rows = _rows(num_rows, pool, ways)
        if is_shuffled:
            lines = list(rows)
            ways.shuffle(lines)
            rows = iter(lines)
        file.writelines(rows)
        os.fsync(file.fileno())  # or the first way to read would share the disk with this


def _rows(num_rows: int, pool: list[str], ways: random.Random) -> Iterator[str]:
    for number in range(num_rows):
        if number % ROWS_OF_A_PROBLEM == 0:
            problem = f"codecontests/CODEFORCES/{number}_A. {' '.join(ways.choices(WORDS, k=3))}"
            statement = json.dumps(_statement(ways), ensure_ascii=False)
            rating = ways.randrange(800, 3500, 100)
        # 700 characters on average, from one line to thousands of characters, as people write.
        code = "\\n".join(ways.choices(pool, k=min(int(ways.lognormvariate(2.75, 0.7)) + 1, 400)))
        label = "true" if ways.random() < 0.45 else "false"
        yield (
            f'{{"instruction": {statement}, "input": "", "output": "{code}", "is_correct": {label},'
            f' "problem_id": "{problem}", "task_id": "{problem}#{number}", "metadata":'
            f' {{"source": "CODEFORCES", "language": "{ways.choice(LANGUAGES)}",'
            f' "difficulty": {rating}}}}}\n'
        )


def _statement(ways: random.Random) -> str:
    """Make 1,500 to 2,500 characters in paragraphs."""
    length = ways.randrange(1500, 2500)
    words = ways.choices(WORDS, k=length // 4)
    words[15::40] = ["\n\n"] * len(words[15::40])
    return " ".join(words)[:length]


def _code_line(ways: random.Random) -> str:
    names = ways.choices(("i", "n", "ans", "total", "left", "dp[i][j]", "x", 'print("YES")'), k=3)
    indent = "    " * ways.randrange(4)
    return f"{indent}{names[0]} = {names[1]} + {names[2]}  # {ways.randrange(10**6)}"


def read_plainly(path: Path) -> int:
    """Read the file as the plan does."""
    number = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            json.loads(line)
            number += 1
    return number


def measure_plainly(path: Path) -> Measured:
    return measure(lambda: read_plainly(path))


def measure_index(path: Path, cache: Path, workers: int | None) -> Measured:
    """Index the file anew with so many processes; None: open the index that is there."""
    if workers is None:
        return measure(lambda: len(DatasetIndex.build(str(path), cache)))
    shutil.rmtree(cache, ignore_errors=True)
    return measure(
        lambda: len(DatasetIndex.build(str(path), cache, workers=workers)),
        num_children=workers if workers > 1 else 0,
    )


def main() -> None:
    """Write the rows, read them each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shuffled", action="store_true", help="rows in random order; in memory")
    parser.add_argument("--folder", type=Path, help="where there is room; default: the system's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, cache = Path(folder, "rows.jsonl"), Path(folder, "cache")
        # Not here: a process hands its peak of memory on to those it starts.
        in_fresh_process(write_rows, path, options.rows, is_shuffled=options.shuffled)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e9:.2f} GB\n")
        print_header("way", "rows/s", "seconds", "speed", "CPU seconds", "peak memory")
        for _ in range(options.rounds):
            plain = in_fresh_process(measure_plainly, path)
            ways: dict[str, Measured] = {"json.loads line by line": plain}
            for name, workers in INDEXING.items():
                ways[name] = in_fresh_process(measure_index, path, cache, workers)
            for name, way in ways.items():
                print_row(
                    *(name, f"{way.found / way.seconds:,.0f}", f"{way.seconds:.2f}"),
                    *(f"{plain.seconds / way.seconds:.2f}x", f"{way.cpu_seconds:.1f}"),
                    f"{way.peak_bytes / 1e6:,.0f} MB",
                )
            assert len({way.found for way in ways.values()}) == 1, "a way has lost rows"


if __name__ == "__main__":
    main()
