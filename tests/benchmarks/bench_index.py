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
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from featurize.data.index import DatasetIndex

ROWS_OF_A_PROBLEM = 240
TEXT = """
the of a and to in is number integers given you for each that are it contains first line by
Vasya array string length output print input test cases minimum maximum 1 ≤ n ≤ 10^5 such sum
possible answer exactly two edges vertices tree “good” moves player wins if there no …
"""
WORDS = TEXT.split()
LANGUAGES = ("python3", "cpp", "java")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What reading the file one way took."""

    way: str
    rows: int
    seconds: float
    cpu_seconds: float  # of all processes
    peak_bytes: int  # at most: the peaks of all processes, as if they fell together


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


def measure(way: str, read: Callable[..., int], *arguments: object) -> Measured:
    """Run `read` and take its time and memory; to be called in a fresh process."""
    start = time.perf_counter()
    rows = read(*arguments)
    seconds = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    num_children = arguments[-1] if isinstance(arguments[-1], int) and arguments[-1] > 1 else 0
    return Measured(
        way=way,
        rows=rows,
        seconds=seconds,
        cpu_seconds=sum(usage.ru_utime + usage.ru_stime for usage in (own, children)),
        # NOTE: of children the system keeps the largest peak, not their sum.
        peak_bytes=1024 * (own.ru_maxrss + num_children * children.ru_maxrss),
    )


def build_index(path: Path, cache: Path, workers: int) -> int:
    """Index the file anew."""
    shutil.rmtree(cache, ignore_errors=True)
    return len(DatasetIndex.build(str(path), cache, workers=workers))


def open_index(path: Path, cache: Path) -> int:
    """Open the index that is there."""
    return len(DatasetIndex.build(str(path), cache))


def in_fresh_process(call: Callable[..., Any], *arguments: object, **options: object) -> Any:
    """Call something where nothing has used memory or time before, and leave none behind."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments, **options).result()


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
        print("| way | rows/s | seconds | speed | CPU seconds | peak memory |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for _ in range(options.rounds):
            plain = in_fresh_process(measure, "json.loads line by line", read_plainly, path)
            ways: list[Measured] = [plain]
            for workers in (1, 2):
                name = f"critic, {workers} process" + "es" * (workers > 1)
                ways.append(in_fresh_process(measure, name, build_index, path, cache, workers))
            ways.append(in_fresh_process(measure, "critic, second open", open_index, path, cache))
            for way in ways:
                print(
                    f"| {way.way} | {way.rows / way.seconds:,.0f} | {way.seconds:.2f}"
                    f" | {plain.seconds / way.seconds:.2f}x | {way.cpu_seconds:.1f}"
                    f" | {way.peak_bytes / 1e6:,.0f} MB |",
                    flush=True,
                )
            assert len({way.rows for way in ways}) == 1, "a way has lost rows"


if __name__ == "__main__":
    main()
