"""Featurize runs of a project folder: their commands, processes and stores."""

import contextlib
import subprocess
from pathlib import Path

import torch

from featurize.store import FeatureStore
from tests.support.tiny_project import options


def featurize_command(experiment: str, *settings: str) -> list[str]:
    """Featurizes the train split in units of a problem each, into a store of its own."""
    more = options("featurize.unit_tokens=50", f"experiment.name={experiment}", *settings)
    return ["featurize", "--split", "train", *more]


def store_path(project: Path, experiment: str) -> Path:
    return project / "storage/features" / experiment / "train"


def num_finished(store: Path) -> int:
    return len([*(store / "units").glob("*.json")])


def find_workers(process: subprocess.Popen[str]) -> list[int]:
    """Processes the launcher has started; each leads a session of its own."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(child) for child in children.read_text().split()]
    return []


def is_alive(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def assert_same(found: FeatureStore, expected: FeatureStore, *, by_row: bool = False) -> None:
    """Rows, ids and order equal; numbers as close as another order of summation leaves them.

    With `by_row` the norm of a feature row's difference is compared, not each number.
    """
    exact = expected.samples.column_names[:11]  # SAMPLE_SCHEMA; the likelihood columns follow
    assert found.samples.select(exact).equals(expected.samples.select(exact))
    for name in expected.samples.column_names[11:]:
        values = [torch.from_numpy(store.samples[name].to_numpy()) for store in (found, expected)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
    assert found.tensor_names == expected.tensor_names
    for name in expected.tensor_names:
        wanted = expected.read(name)
        if by_row:
            difference = (found.read(name) - wanted).norm(dim=1) / wanted.norm(dim=1)
            assert difference.max() <= 1e-5
        else:
            torch.testing.assert_close(found.read(name), wanted, rtol=1e-5, atol=1e-5)
    assert found.manifest.fingerprint == expected.manifest.fingerprint
    assert found.manifest.counts == expected.manifest.counts
    assert [*found.path.rglob("*.partial")] == []
