"""How many workers are started, and what a job does with a store that is there."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.run import launch
from featurize.run.job import FeaturizeJob, find_finished
from featurize.run.launch import choose_workers, replan, run_job
from featurize.run.plan import Selection, plan_featurize
from featurize.store.samples import PlannedPairs
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store

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


class NoReporter:
    def planned(self, plan: object) -> None:
        raise AssertionError(plan)

    advance = planned

    def note(self, text: str) -> None:
        assert text.startswith("planning: ")


def test_a_finished_job_computes_nothing_and_returns_its_counts(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(2)))
    write_store(plan)
    summary = run_job(plan.job, NoReporter())
    assert summary.was_up_to_date
    assert summary.counts["read"] == 10


def test_a_worker_plans_the_same_units_from_the_job_it_reads(tmp_path: Path) -> None:
    pairs = PlannedPairs(correct=np.array([3]), incorrect=np.array([1]), record={"n": 1})
    selection = Selection(pairs=pairs, also=np.array([7]))
    plan = make_plan(
        tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(2)), choose=lambda *_: selection
    )
    job = FeaturizeJob.from_dict(plan.job.to_dict())
    again = replan(job, selection.to_dict())
    assert again.fingerprint == plan.fingerprint
    assert again.units == plan.units
    assert again.index.table.equals(plan.index.table)
    assert plan_featurize(job).fingerprint != plan.fingerprint


def test_a_finished_job_is_recognised_without_the_backbones_libraries(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", make_rows(2))
    plan = make_plan(tmp_path, rows)
    write_store(plan)
    assert find_finished(plan.job) is None  # nothing is recorded yet
    run_job(plan.job, NoReporter())
    found = find_finished(plan.job)
    assert found is not None
    assert found.fingerprint == plan.fingerprint
    code = (
        "import sys\n"
        "from featurize.run.job import FeaturizeJob\n"
        "from featurize.run.job import find_finished\n"
        f"job = FeaturizeJob.from_dict({plan.job.to_dict()!r})\n"
        "assert find_finished(job) is not None\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("change", ["rows", "weights", "tokenizer", "shard", "settings", "repair"])
def test_a_finished_job_is_planned_again_when_something_it_depends_on_has_changed(
    tmp_path: Path, change: str
) -> None:
    plan = make_plan(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(2)))
    write_store(plan)
    run_job(plan.job, NoReporter())
    job = plan.job
    if change == "settings":
        job = replace(job, featurize=replace(job.featurize, likelihood=True))
    elif change == "repair":
        job = replace(job, repair=True)
    else:
        path = {
            "rows": tmp_path / "rows.jsonl",
            "weights": tmp_path / "model/model.safetensors",
            "tokenizer": tmp_path / "model/tokenizer.json",
            "shard": tmp_path / "store/units/00000.safetensors",
        }[change]
        path.write_bytes(path.read_bytes() + b"\n")
    assert find_finished(job) is None
