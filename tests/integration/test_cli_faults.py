"""Faults of a night: each leaves a clear message, a rerun does what is missing, nothing else."""

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.console import UP_TO_DATE
from featurize.errors import FeatureStoreError
from featurize.io.files import sole_writer
from tests.support.command_line import REPOSITORY, Outcome, WarmCritic
from tests.support.tiny_project import options, write_project
from tests.support.unit_features import read_tree

pytestmark = pytest.mark.slow

NUM_UNITS = 30
CLOCK = """
import itertools, os, time
real, jumps = time.time, itertools.cycle((0, -4e7, 3600, -7200, 3e6))
def jumping():
    return real() + (next(jumps) if os.path.exists(os.environ["JUMPS"]) else 0)
time.time, time.time_ns = jumping, lambda: int(jumping() * 1e9)
"""
"""A clock that jumps back and forth while a file is there."""

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("faults"), num_train=NUM_UNITS, num_valid=1)


@pytest.fixture(scope="module")
def critic(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCritic]:
    clock = tmp_path_factory.mktemp("clock")
    (clock / "sitecustomize.py").write_text(CLOCK)
    variables = {"PYTHONPATH": f"{clock}:{REPOSITORY}", "JUMPS": str(project / "jumps")}
    critic = WarmCritic(tmp_path_factory.mktemp("home"), variables)
    yield critic
    critic.close()


@pytest.fixture(scope="module")
def whole(critic: WarmCritic, project: Path) -> dict[str, bytes]:
    """The units of a store that nothing happened to."""
    outcome = critic.run(*featurize("whole"), folder=project)
    assert outcome.code == 0, outcome.err
    files = read_tree(store_path(project, "whole") / "units")
    assert len(files) == 3 * NUM_UNITS
    return files


def featurize(experiment: str, *more: str) -> list[str]:
    settings = (f"experiment.name={experiment}", "featurize.unit_tokens=50")
    return ["featurize", "--split", "train", *more, *options(*settings)]


def store_path(project: Path, experiment: str) -> Path:
    return project / "storage/features" / experiment / "train"


def make(critic: WarmCritic, project: Path, experiment: str) -> Path:
    outcome = critic.run(*featurize(experiment), folder=project)
    assert outcome.code == 0, outcome.err
    return store_path(project, experiment)


def num_resumed(outcome: Outcome) -> int:
    assert outcome.code == 0, outcome.err
    line = next(line for line in outcome.out.splitlines() if "units resumed" in line)
    return int(line.split("│")[2])


def assert_whole(store: Path, whole: dict[str, bytes]) -> None:
    assert read_tree(store / "units") == whole
    assert (store / "manifest.json").exists()
    assert [*store.rglob("*.partial")] == []


# --- damage to a finished store


def test_a_rerun_redoes_a_unit_whose_file_was_cut_or_lost(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    store = make(critic, project, "torn")
    cut = store / "units/00007.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    (store / "units/00012.parquet").unlink()
    outcome = critic.run(*featurize("torn"), folder=project)
    assert num_resumed(outcome) == NUM_UNITS - 2
    assert ": 7, 12\n" in outcome.err
    assert_whole(store, whole)
    assert UP_TO_DATE in critic.run(*featurize("torn"), folder=project).out


def test_inspect_finds_a_flipped_bit_and_gives_the_command_that_mends_it(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    store = make(critic, project, "flipped")
    assert critic.run("inspect", str(store), "--verify", folder=project).code == 0
    for number in (3, 11):
        content = bytearray(whole[f"{number:05d}.safetensors"])
        content[-7] ^= 16
        (store / f"units/{number:05d}.safetensors").write_bytes(content)
    outcome = critic.run("inspect", str(store), "--verify", folder=project)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert re.search(r"unit 3 \(00003\.safetensors: .*\), unit 11 \(", outcome.err)
    found = re.search(r"redo only that with `critic (.*)`$", outcome.err.strip())
    assert found is not None
    arguments = shlex.split(found[1])
    assert arguments == [*featurize("flipped"), "--repair"]
    outcome = critic.run(*arguments, folder=project)
    assert num_resumed(outcome) == NUM_UNITS - 2
    assert "made again: 3, 11\n" in outcome.err
    assert_whole(store, whole)


def test_a_damaged_manifest_is_written_again_from_the_receipts(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    store = make(critic, project, "manifest")
    manifest = (store / "manifest.json").read_bytes()
    (store / "manifest.json").write_bytes(manifest[: len(manifest) // 2])
    outcome = critic.run(*featurize("manifest"), folder=project)
    assert outcome.code == 2
    assert "manifest.json: damaged" in outcome.err
    assert f"`critic {shlex.join([*featurize('manifest'), '--repair'])}`" in outcome.err
    outcome = critic.run(*featurize("manifest", "--repair"), folder=project)
    assert num_resumed(outcome) == NUM_UNITS
    assert (store / "manifest.json").read_bytes() == manifest


# --- places that cannot be written


def test_a_disk_that_is_full_for_the_manifest_costs_no_unit(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    most = max(map(len, whole.values())) + 1000
    store = store_path(project, "full")
    outcome = critic.run(*featurize("full"), folder=project, most_bytes=most)
    assert outcome.code == 2
    assert (
        outcome.err == f"error: File too large: {shown(store)}/manifest.json; make room and rerun\n"
    )
    assert not (store / "manifest.json").exists()
    assert num_resumed(critic.run(*featurize("full"), folder=project)) == NUM_UNITS
    assert_whole(store, whole)


def shown(store: Path) -> str:
    """The store's path as a message has it, relative to the project."""
    return str(Path(*store.parts[-5:][1:]))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write into, not even root."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("whole")
def test_a_read_only_folder_is_named(critic: WarmCritic, project: Path, read_only: Path) -> None:
    arguments = [*featurize("demo"), "--set", f"storage.features_dir={read_only}"]
    outcome = critic.run(*arguments, folder=project)
    assert outcome.code == 2
    assert outcome.err == f"error: Read-only file system: {read_only}/demo\n"


@pytest.mark.usefixtures("whole")
def test_a_file_in_place_of_a_folder_is_named(
    critic: WarmCritic, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "features").write_text("")
    arguments = [*featurize("demo"), "--set", f"storage.features_dir={tmp_path}/features"]
    outcome = critic.run(*arguments, folder=project)
    assert outcome.code == 2
    assert outcome.err == f"error: Not a directory: {tmp_path}/features/demo/train\n"


# --- while it runs


class Running:
    """A command in a fork of the warm process, to be disturbed while it runs."""

    def __init__(self, critic: WarmCritic, project: Path, experiment: str) -> None:
        self.units = store_path(project, experiment) / "units"
        self.outcome: Outcome | None = None

        def run() -> None:
            self.outcome = critic.run(*featurize(experiment), folder=project)

        self._thread = threading.Thread(target=run)
        self._thread.start()
        self._server = critic.process_id

    def wait_for_units(self, number: int) -> None:
        give_up = time.monotonic() + 120
        while len([*self.units.glob("*.json")]) < number:
            assert time.monotonic() < give_up
            assert self._thread.is_alive(), self.outcome
            time.sleep(0.002)

    def send(self, number: int) -> None:
        children = Path(f"/proc/{self._server}/task/{self._server}/children").read_text()
        os.kill(int(children.split()[0]), number)

    def end(self) -> Outcome:
        self._thread.join(120)
        assert self.outcome is not None
        return self.outcome


def test_a_terminated_run_ends_cleanly_and_resumes_later(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    running = Running(critic, project, "terminated")
    running.wait_for_units(3)
    running.send(signal.SIGTERM)
    outcome = running.end()
    assert outcome.code == 143
    assert outcome.err == "error: terminated (SIGTERM); run the same command again to resume\n"
    store = store_path(project, "terminated")
    assert [*store.rglob("*.partial")] == []
    kept = read_tree(store / "units")
    assert kept == {name: whole[name] for name in kept}
    num_kept = sum(name.endswith(".json") for name in kept)
    assert 3 <= num_kept < NUM_UNITS
    assert len(kept) == 3 * num_kept  # the unit that was being written was finished
    assert num_resumed(critic.run(*featurize("terminated"), folder=project)) == num_kept
    assert_whole(store, whole)


def test_a_run_keeps_others_out_of_its_store(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    store = store_path(project, "kept")
    running = Running(critic, project, "kept")
    running.wait_for_units(2)
    running.send(signal.SIGSTOP)
    try:
        with pytest.raises(FeatureStoreError, match="another run"), sole_writer(store, patience=0):
            pytest.fail("both are in")
    finally:
        running.send(signal.SIGCONT)
    assert running.end().code == 0
    assert_whole(store, whole)


def test_a_run_that_is_kept_out_is_refused_and_disturbs_nothing(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    store = make(critic, project, "shared")
    (store / "units/00004.json").unlink()
    (store / "manifest.json").unlink()
    before = read_tree(store / "units")
    with sole_writer(store):
        for more in ((), ("--overwrite",)):
            outcome = critic.run(*featurize("shared", *more), folder=project)
            assert outcome.code == 2
            assert "shared/train: " in outcome.err
            assert f"(process {os.getpid()}" in outcome.err
            assert len(outcome.err.splitlines()) == 1
            assert read_tree(store / "units") == before
    assert num_resumed(critic.run(*featurize("shared"), folder=project)) == NUM_UNITS - 1
    assert_whole(store, whole)


def test_nothing_depends_on_the_clock(
    critic: WarmCritic, project: Path, whole: dict[str, bytes]
) -> None:
    (project / "jumps").touch()
    try:
        store = make(critic, project, "clock")
        assert_whole(store, whole)
        for number, file in enumerate(sorted(store.rglob("*"))):
            os.utime(file, (4e9, 4e9) if number % 2 else (0, 0))
        assert UP_TO_DATE in critic.run(*featurize("clock"), folder=project).out
        (store / "units/00002.json").unlink()
        (store / "manifest.json").unlink()
        assert num_resumed(critic.run(*featurize("clock"), folder=project)) == NUM_UNITS - 1
        assert_whole(store, whole)
    finally:
        (project / "jumps").unlink()
