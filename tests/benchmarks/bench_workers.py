"""Prints what processes and threads are worth: one of n threads against n of one thread.

    .venv/bin/python tests/benchmarks/bench_workers.py --config configs/demo.yaml

Featurizes the train split of the config anew each way, from the command line, and takes the tokens
a second of the run itself.
"""

import argparse
import os
import re
import subprocess
import sys


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
    parser.add_argument("--rounds", type=int, default=1)
    options, rest = parser.parse_known_args()
    cores = len(os.sched_getaffinity(0))
    print("| processes x threads | unique tok/s |")
    print("| --- | ---: |")
    for _ in range(options.rounds):
        for workers, threads in ((cores, 1), (1, cores), (1, 1)):
            tokens, seconds = measure(workers, threads, rest, options.limit_problems)
            print(f"| {workers} x {threads} | {tokens / seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
