"""Featurize on several machines, with restarts, and with backbones that lie on several ranks."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from torch.distributed import run

from featurize.store import FeatureStore
from tests.support.command_line import WarmCritic, free_port
from tests.support.featurize_runs import assert_same, featurize_command, store_path
from tests.support.llama_mtp_files import make_weights, write_checkpoint
from tests.support.tiny_models import write_tiny_model
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.slow

TENSOR_PARALLEL = "distributed.tensor_parallel_size=2"
SHARDED = "distributed.shard_backbone=true"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("distributed"), num_train=24, num_valid=1)


@pytest.fixture(scope="module")
def whole(project: Path, critic: WarmCritic) -> FeatureStore:
    """What one process with the whole backbone makes."""
    (outcome,) = critic.run_ranks(*featurize_command("whole"), folder=project, num_ranks=1)
    assert outcome.code == 0, outcome.err
    return FeatureStore.open(store_path(project, "whole"))


@pytest.mark.parametrize(
    ("num_ranks", "setting"),
    [(2, TENSOR_PARALLEL), (2, SHARDED), (4, TENSOR_PARALLEL)],
    ids=["tensor parallel", "sharded", "two groups"],
)
def test_ranks_that_share_a_backbone_make_the_features_of_one_process(
    num_ranks: int, setting: str, project: Path, whole: FeatureStore, critic: WarmCritic
) -> None:
    experiment = f"shared-{num_ranks}-{setting.partition('=')[0].rpartition('.')[2]}"
    outcomes = critic.run_ranks(
        *featurize_command(experiment, setting), folder=project, num_ranks=num_ranks
    )
    assert [outcome.code for outcome in outcomes] == [0] * num_ranks, outcomes
    assert outcomes[0].out.count("features in ") == 1
    assert [outcome.out for outcome in outcomes[1:]] == [""] * (num_ranks - 1)
    assert_same(FeatureStore.open(store_path(project, experiment)), whole, by_row=True)


def test_backbones_of_many_makes_are_shared_by_reading_only_a_part(
    tmp_path: Path, critic: WarmCritic
) -> None:
    folders = {
        "tied": write_tiny_model(tmp_path / "tied", tie_word_embeddings=True),
        "gemma3": write_tiny_model(tmp_path / "gemma3", "gemma3"),
        "gpt_neox": write_tiny_model(tmp_path / "gpt_neox", "gpt_neox"),
        "mtp": write_checkpoint(tmp_path / "mtp", make_weights()),
    }
    kinds = ("tensor", "fsdp")
    # Without the likelihood the blocks above the deepest layer are not even read.
    cases = [(str(folders[name]), kind, [0, 2], False) for name in folders for kind in kinds]
    cases += [(str(folders["tied"]), kind, [1, 3], True) for kind in kinds]
    cases += [(str(folders["mtp"]), kind, [2, 4], True) for kind in kinds]
    result = tmp_path / "result"
    outcomes = critic.call_ranks(
        "tests.support.shared_backbones:compare", cases, str(result), num_ranks=2
    )
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    for rank in range(2):
        found = json.loads(result.with_suffix(f".{rank}").read_text())
        for case, (error, share) in zip(cases, found, strict=True):
            assert error <= 1e-5, case
            assert share < 0.6, case  # norms are not cut by tensor parallelism


def test_what_cannot_be_cut_is_refused_before_anything_is_loaded(
    project: Path, critic: WarmCritic
) -> None:
    (project / "model/model.safetensors").rename(project / "weights")
    (project / "model/model.safetensors").write_bytes(b"never read")
    try:
        setting = "distributed.tensor_parallel_size=3"
        (outcome,) = critic.run_ranks(
            *featurize_command("odd", setting), folder=project, num_ranks=1
        )
    finally:
        (project / "weights").rename(project / "model/model.safetensors")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "distributed.tensor_parallel_size 3" in outcome.err
    assert "[2], or distributed.shard_backbone" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--set", TENSOR_PARALLEL], "error: 1 processes"),
        (["--overwrite"], "error: --overwrite is not for torchrun"),
        (["--nproc-per-node", "2"], "give it to torchrun, before -m cli"),
    ],
)
def test_what_a_rank_cannot_do_is_said_in_one_line(
    arguments: list[str], reason: str, project: Path, critic: WarmCritic
) -> None:
    (outcome,) = critic.run_ranks(
        *featurize_command("refused"), *arguments, folder=project, num_ranks=1
    )
    assert outcome.code == 2
    assert reason in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_two_machines_finish_a_run_though_a_rank_is_killed(
    project: Path, whole: FeatureStore, critic: WarmCritic
) -> None:
    """Two torchruns on loopback; the restarted ranks meet the store of the killed ones again."""
    store = store_path(project, "machines")
    launcher = [
        *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"),
    ]
    words = [*launcher, "-m", "cli", *featurize_command("machines")]
    function = "tests.integration.test_cli_distributed:run_node"
    outcomes = critic.call_ranks(function, words, str(project), str(store), num_ranks=2)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert (store.parent / "killed").exists()
    assert_same(FeatureStore.open(store), whole)


def run_node(words: list[str], folder: str, store: str) -> None:
    """What torchrun does on one of two machines; on the second it loses its rank's first try."""
    node = int(os.environ["RANK"])
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    os.chdir(folder)
    if node == 1:
        threading.Thread(target=kill_rank, args=(Path(store),), daemon=True).start()
    run.main(words)


def kill_rank(store: Path) -> None:
    """Kills the rank this process has started once a unit is there."""
    while not any((store / "units").glob("*.json")):
        time.sleep(0.002)
    (worker,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    (store.parent / "killed").touch()
