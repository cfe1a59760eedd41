"""Featurize runs that are killed, interrupted or shared out end in the same store."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from featurize.store import FeatureStore
from tests.support.command_line import Outcome, finish, run_critic, start_critic
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

pytestmark = pytest.mark.slow

SECONDS = 240  # for a single command, on a machine that is shared
NUM_UNITS = 60


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("interrupts"), num_train=NUM_UNITS, num_valid=1)


@pytest.fixture(scope="module")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """What one worker makes without a break."""
    outcome = run_critic(
        *command("undisturbed", workers=1), folder=project, home=tmp_path_factory.mktemp("home")
    )
    assert outcome.code == 0, outcome.err
    store = FeatureStore.open(store_path(project, "undisturbed"))
    assert len(store.manifest.units) == NUM_UNITS
    return store


def command(experiment: str, *, workers: int) -> list[str]:
    return featurize_command(experiment, f"featurize.workers={workers}")


def await_run(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    """Returns when it is so, or the process has ended."""
    wait_until(lambda: is_so() or process.poll() is not None, seconds=SECONDS)


def disturb(
    project: Path, home: Path, experiment: str, *, workers: int, after: int, by: int
) -> Outcome:
    """Starts a run and sends its process group a signal once `after` units are there."""
    arguments = command(experiment, workers=workers)
    process = start_critic(*arguments, folder=project, home=home)
    store = store_path(project, experiment)
    await_run(process, lambda: num_finished(store) >= after)
    time.sleep(random.uniform(0, 0.02))
    workers_alive = find_workers(process)
    os.killpg(process.pid, by)
    outcome = finish(process, timeout=SECONDS)
    # The kernel ends the workers of a killed launcher at once, wherever they wait.
    wait_until(lambda: not any(map(is_alive, workers_alive)), seconds=10)
    return outcome


def test_two_workers_make_the_store_of_one(
    project: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    arguments = [*command("two", workers=1), "--nproc-per-node", "2"]  # the option wins
    process = start_critic(*arguments, folder=project, home=tmp_path)
    await_run(process, lambda: len(find_workers(process)) == 2)
    outcome = finish(process, timeout=SECONDS)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.count("plan: featurize train") == 1
    assert outcome.out.count("\nfeatures in ") == 1
    assert_same(FeatureStore.open(store_path(project, "two")), undisturbed)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [*tmp_path.glob("tmp/torchelastic*"), *tmp_path.glob("tmp/critic*")] == []


def test_a_killed_run_is_finished_by_reruns(
    project: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    experiment = "killed"
    store = store_path(project, experiment)
    after = random.randint(2, NUM_UNITS // 4)
    outcome = disturb(project, tmp_path, experiment, workers=2, after=after, by=signal.SIGKILL)
    assert outcome.code == -signal.SIGKILL
    assert not (store / "manifest.json").exists()
    num_kept = num_finished(store)
    assert 2 <= num_kept < NUM_UNITS
    # Begun with two workers, finished with one.
    outcome = run_critic(*command(experiment, workers=1), folder=project, home=tmp_path)
    assert outcome.code == 0, outcome.err
    resumed = next(line for line in outcome.out.splitlines() if "units resumed" in line)
    assert int(resumed.split("│")[2]) in (num_kept, num_kept - 1)  # the last may be torn
    assert_same(FeatureStore.open(store), undisturbed)


def test_workers_end_with_a_launcher_that_is_killed_while_they_start(
    project: Path, tmp_path: Path
) -> None:
    process = start_critic(*command("early", workers=2), folder=project, home=tmp_path)
    await_run(process, lambda: len(find_workers(process)) == 2)
    workers = find_workers(process)
    time.sleep(random.uniform(0, 2))  # torch takes longer to import
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, workers)), seconds=10)
    finish(process)


def test_an_interrupted_run_says_that_a_rerun_resumes(project: Path, tmp_path: Path) -> None:
    experiment = "interrupted"
    outcome = disturb(project, tmp_path, experiment, workers=2, after=2, by=signal.SIGINT)
    assert outcome.err == "error: interrupted; run the same command again to resume\n"
    assert outcome.code == 130
    store = store_path(project, experiment)
    assert not (store / "manifest.json").exists()
    assert [*store.rglob("*.partial")] == []


def test_a_worker_killed_for_its_memory_is_reported_by_the_launcher(
    project: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    process = start_critic(*command("starved", workers=2), folder=project, home=tmp_path)
    store = store_path(project, "starved")
    await_run(process, lambda: num_finished(store) >= 2)
    os.kill(find_workers(process)[1], signal.SIGKILL)
    outcome = finish(process, timeout=SECONDS)
    assert outcome.code == 2
    assert outcome.err.startswith("error: worker ")
    assert "was killed (SIGKILL" in outcome.err
    assert "featurize.workers" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (store / "manifest.json").exists()
