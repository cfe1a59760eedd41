"""Kills featurize runs at random moments, again and again; every store must end as it should.

    python -m tests.faults.kill_rounds --rounds 20

Each round starts `critic featurize` with several workers on what the rounds before have left, waits
a random while and sends a signal to a worker, to the launcher or to all of them. A run that gets
through ends a store, which is compared with that of an undisturbed run; the next round begins a new
one. Prints a line a round, and fails at the first thing that is wrong.
"""

import argparse
import contextlib
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from featurize.store import FeatureStore
from tests.support.command_line import finish, run_critic, start_critic
from tests.support.featurize_runs import (
    assert_same,
    featurize_command,
    find_workers,
    is_alive,
    num_finished,
    store_path,
)
from tests.support.processes import wait_until
from tests.support.tiny_project import write_project

NUM_UNITS = 60
MOST_SECONDS = 1200  # for a single command, on a machine that is shared
EXPECTED_CODES = {
    ("launcher", signal.SIGKILL): {-signal.SIGKILL},
    ("everything", signal.SIGKILL): {-signal.SIGKILL},
    ("worker", signal.SIGKILL): {2},
    ("launcher", signal.SIGTERM): {143, -signal.SIGTERM},  # before Python hears signals: -15
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int)
    options_ = parser.parse_args()
    seed = random.randrange(10**6) if options_.seed is None else options_.seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="kill-rounds-") as folder:
        play(Path(folder), random.Random(seed), options_.rounds, options_.workers)


def play(folder: Path, draw: random.Random, rounds: int, workers: int) -> None:
    """Rounds of kills, then each store finished and compared."""
    project = write_project(folder / "project", num_train=NUM_UNITS, num_valid=1)
    home = folder / "home"
    start = time.monotonic()
    outcome = run_critic(*command("undisturbed", workers), folder=project, home=home)
    seconds = time.monotonic() - start
    assert outcome.code == 0, outcome.err
    expected = FeatureStore.open(store_path(project, "undisturbed"))
    assert len(expected.manifest.units) == NUM_UNITS
    number, tally = 0, Counter[str]()
    for round_ in range(rounds):
        store = store_path(project, f"store-{number}")
        before, began = num_finished(store), time.monotonic()
        what = disturb(project, home, f"store-{number}", workers, draw, seconds)
        kept = num_finished(store)
        assert kept >= before, "a finished unit is gone"
        tally[what] += 1
        took = time.monotonic() - began
        print(f"round {round_ + 1:3}: {what:26} store {number}: {before} -> {kept}, {took:.0f} s")
        if (store / "manifest.json").exists():
            assert_same(FeatureStore.open(store), expected)
            number += 1
    arguments = command(f"store-{number}", workers)
    outcome = finish(start_critic(*arguments, folder=project, home=home), timeout=MOST_SECONDS)
    assert outcome.code == 0, outcome.err
    assert_same(FeatureStore.open(store_path(project, f"store-{number}")), expected)
    print(f"{rounds} rounds, {number + 1} stores, each like the undisturbed one; {dict(tally)}")


def disturb(
    project: Path, home: Path, name: str, workers: int, draw: random.Random, seconds: float
) -> str:
    """One run that is sent a signal; returns which, and to whom."""
    target, by = draw.choice(sorted(EXPECTED_CODES))
    store = store_path(project, name)
    before = num_finished(store)
    process = start_critic(*command(name, workers), folder=project, home=home)
    # Half of them while units are written, half at any moment.
    if draw.random() < 0.5:
        wait_until(
            lambda: num_finished(store) > before or process.poll() is not None,
            seconds=MOST_SECONDS,
        )
        time.sleep(draw.uniform(0, 0.15 * seconds))
    else:
        time.sleep(draw.uniform(0, seconds))
    found = find_workers(process)
    if process.poll() is not None:
        outcome = finish(process)
        assert outcome.code == 0, outcome.err
        return "through before its signal"
    if target == "worker" and not found:
        target = "launcher"
    victims = {
        "worker": draw.sample(found, min(1, len(found))),
        "launcher": [],
        "everything": found,
    }[target]
    for victim in victims if target == "worker" else [process.pid, *victims]:
        with contextlib.suppress(ProcessLookupError):  # it went with the launcher
            os.kill(victim, by)
    outcome = finish(process, timeout=MOST_SECONDS)
    wait_until(lambda: not any(map(is_alive, found)), seconds=MOST_SECONDS)
    is_through = outcome.code == 0 and (store / "manifest.json").exists()
    codes = EXPECTED_CODES[target, by]
    assert is_through or outcome.code in codes, (target, by, outcome)
    assert "Traceback" not in outcome.err, outcome.err
    return f"{signal.Signals(by).name} of {target}"


def command(experiment: str, workers: int) -> list[str]:
    return featurize_command(experiment, f"featurize.workers={workers}")


if __name__ == "__main__":
    main()
