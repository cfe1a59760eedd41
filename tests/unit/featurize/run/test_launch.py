"""How many processes are started, and that none of them outlives its launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from featurize.run import launch
from featurize.run.launch import choose_workers, claim_report, follow_launcher

ROOT = Path(__file__).parents[4]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, 10 GB and eight GPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(launch, "available_memory", lambda: 10 * GB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


@pytest.mark.parametrize(
    ("device", "asked", "num_units", "memory", "expected"),
    [
        (CPU, None, 100, GB, 4),
        (CPU, None, 100, 3 * GB, 3),
        (CPU, None, 100, 20 * GB, 1),
        (CPU, None, 2, GB, 2),
        (CPU, 9, 100, 20 * GB, 9),
        (CPU, 9, 5, GB, 5),
        (CUDA, None, 100, 20 * GB, 8),
        (CUDA, 3, 100, GB, 3),
        (CUDA, 99, 100, GB, 8),
    ],
)
def test_a_process_a_core_or_a_gpu_unless_asked_otherwise(
    device: torch.device, asked: int | None, num_units: int, memory: int, expected: int
) -> None:
    assert choose_workers(device, asked, num_units, memory) == expected


@pytest.mark.parametrize(
    ("device", "asked", "num_units", "memory", "group", "expected"),
    [
        (CUDA, None, 100, GB, 3, 6),  # whole groups
        (CUDA, None, 1, GB, 4, 4),  # one unit keeps one group busy
        (CUDA, 5, 100, GB, 2, 5),  # refused elsewhere: it was asked for
        (CUDA, None, 1, GB, None, 8),  # all hold one backbone
        (CPU, None, 100, 20 * GB, 2, 2),
        (CPU, None, 100, 20 * GB, 8, 8),  # parts of a backbone may share a core
        (CPU, None, 100, 5 * GB, 2, 4),
        (CPU, None, 1, 20 * GB, None, 4),
    ],
)
def test_processes_that_share_a_backbone_come_in_whole_groups(
    device: torch.device,
    asked: int | None,
    num_units: int,
    memory: int,
    group: int | None,
    expected: int,
) -> None:
    assert choose_workers(device, asked, num_units, memory, group) == expected


def test_one_of_the_processes_started_together_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claim_report()
    monkeypatch.setenv(launch.LAUNCHED, str(tmp_path))
    assert [claim_report(), claim_report()] == [True, False]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert [claim_report(), claim_report()] == [True, False]


WORKER = """
import time
from featurize.run.launch import follow_launcher
follow_launcher()
print("ready", flush=True)
time.sleep(60)
"""

LAUNCHER = f"""
import os, subprocess, sys
os.environ["CRITIC_LAUNCHER"] = str(os.getpid() + int(sys.argv[1]))
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdout=subprocess.PIPE)
print(worker.pid, worker.stdout.readline().decode(), flush=True)
worker.wait()
"""


def start_launcher(offset: int = 0) -> tuple[subprocess.Popen[str], int, bool]:
    """A launcher with one worker: the worker's number, and whether it got past its launcher."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(offset)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    worker, *words = launcher.stdout.readline().split()
    return launcher, int(worker), words == ["ready"]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's own")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_launcher(by: signal.Signals) -> None:
    launcher, worker, is_ready = start_launcher()
    assert is_ready
    assert is_alive(worker)
    launcher.send_signal(by)
    launcher.wait(10)
    give_up = time.monotonic() + 10
    while is_alive(worker):
        assert time.monotonic() < give_up, "the worker outlives its launcher"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's own")
def test_a_worker_whose_launcher_was_gone_before_ends_at_once() -> None:
    launcher, _, is_ready = start_launcher(offset=1)  # another process has taken its place
    assert not is_ready
    assert launcher.wait(10) == 0


def test_a_process_that_nobody_launched_follows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRITIC_LAUNCHER", raising=False)
    follow_launcher()
