"""Prints what processes and threads are worth: one of n threads against n of one thread.

    .venv/bin/python tests/benchmarks/bench_workers.py --config configs/demo.yaml

Featurizes the train split of the config anew each way, from the command line, and takes the tokens
a second of the run itself, loading the backbone and waiting for the last unit included: give it
minutes a way and small units (--set featurize.unit_tokens=512), or these will be what is measured.
The ways take turns, and the median of the rounds counts, because machines are shared.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys

from tests.benchmarks.measuring import print_header, print_row


def measure(workers: int, threads: int, arguments: list[str], limit: int) -> tuple[float, float]:
    """Unique tokens and seconds of one run."""
    command = [
        *(sys.executable, "-m", "cli", "featurize", "--split", "train", *arguments),
        *("--limit-problems", str(limit), "--set", f"featurize.workers={workers}"),
        *("--set", "featurize.store_name=bench-workers", "--overwrite"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = {
        key: float(re.search(rf"{key}\D+([\d,.]+)", done.stdout).group(1).replace(",", ""))
        for key in ("unique tokens", "seconds")
    }
    return found["unique tokens"], found["seconds"]


def main() -> None:
    """Runs each way and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-problems", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes-only", action="store_true", help="leave threads out")
    options, rest = parser.parse_known_args()
    cores = len(os.sched_getaffinity(0))
    ways = [(1, 1), (cores, 1), *([] if options.processes_only else [(1, cores)])]
    speeds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for (workers, threads), found in speeds.items():
            tokens, seconds = measure(workers, threads, rest, options.limit_problems)
            found.append(tokens / seconds)
            done = f"round {number + 1}: {workers} x {threads}: {found[-1]:.0f} unique tok/s"
            print(done, file=sys.stderr, flush=True)
    one = statistics.median(speeds[1, 1])
    print_header("processes x threads", "unique tok/s", "of 1 x 1")
    for (workers, threads), found in speeds.items():
        speed = statistics.median(found)
        print_row(f"{workers} x {threads}", f"{speed:.0f}", f"{speed / one:.2f}")


if __name__ == "__main__":
    main()
