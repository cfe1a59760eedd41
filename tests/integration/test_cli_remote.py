"""Stores and heads on a real S3 server (moto's, on loopback), over a line that breaks."""

import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch

from configs.console import UP_TO_DATE
from featurize.io.remote import RemoteFolder
from featurize.store import FeatureStore
from tests.support.command_line import Outcome, WarmCritic
from tests.support.s3_server import BUCKET, Wire, s3_environment, s3_server
from tests.support.tiny_project import options, write_project

pytestmark = pytest.mark.slow

FEATURES = f"s3://{BUCKET}/features"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with s3_server() as wire:
        yield wire


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("remote"), num_train=6, num_valid=3)


@pytest.fixture(scope="module")
def critic(wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCritic]:
    critic = WarmCritic(tmp_path_factory.mktemp("home"), s3_environment(wire))
    yield critic
    critic.close()


@pytest.fixture(scope="module")
def run(project: Path, critic: WarmCritic) -> Any:
    def run(*command: str, features: str | None = FEATURES, more: tuple[str, ...] = ()) -> Outcome:
        place = () if features is None else (f"storage.features_dir={features}",)
        return critic.run(*command, *options(*place, *more), folder=project)

    return run


@pytest.fixture(scope="module")
def local(run: Any, project: Path) -> FeatureStore:
    outcome = run("featurize", "--split", "train", features=None)
    assert outcome.code == 0, outcome.err
    return FeatureStore.open(project / "storage/features/demo/train")


@pytest.fixture(scope="module")
def remote(run: Any, wire: Wire) -> str:
    """The same store on the server, sent over a line that broke several times."""
    wire.cuts, wire.cut_after = 3, 700
    outcome = run("featurize", "--split", "train")
    assert outcome.code == 0, outcome.err
    assert wire.cuts == 0
    return f"{FEATURES}/demo/train"


def test_a_store_on_a_server_is_that_of_a_folder(
    local: FeatureStore, remote: str, project: Path, tmp_path: Path
) -> None:
    store = FeatureStore.open(remote, tmp_path)
    assert store.samples.equals(local.samples)
    for name in local.tensor_names:
        assert torch.equal(store.read(name), local.read(name))
    assert store.manifest.counts == local.manifest.counts
    assert store.manifest.fingerprint == local.manifest.fingerprint
    names = set(RemoteFolder(remote).sizes("units"))
    assert names == {path.name for path in (local.path / "units").iterdir()}
    left = [path for path in (project / "storage/cache/stores").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["writer.lock"]


def test_a_rerun_does_nothing_and_after_a_loss_only_what_was_lost(remote: str, run: Any) -> None:
    assert UP_TO_DATE in run("featurize", "--split", "train").out
    folder = RemoteFolder(remote)
    receipt = folder.read("units/00001.json")
    folder.remove("units/00001.parquet")
    outcome = run("featurize", "--split", "train")
    assert outcome.code == 0, outcome.err
    assert ": 1\n" in outcome.err
    assert folder.read("units/00001.json") == receipt
    assert UP_TO_DATE in run("featurize", "--split", "train").out


def test_a_dataset_on_a_server_gives_the_store_of_the_local_file(
    local: FeatureStore, project: Path, run: Any, wire: Wire
) -> None:
    uri = f"s3://{BUCKET}/data/train.jsonl"
    rows = (project / "train.jsonl").read_bytes()
    s3fs.S3FileSystem().pipe_file(uri, rows + b'{"instruction": "a"}\n')
    more = (f"dataset.train={uri}", "experiment.name=by-uri", "logging.level=INFO")
    outcome = run("featurize", "--split", "train", features=None, more=more)
    assert outcome.code == 2
    assert f"error: {uri}:{len(rows.splitlines()) + 1}: 'output' is missing" in outcome.err
    s3fs.S3FileSystem().pipe_file(uri, rows)
    wire.cuts, wire.cut_after = 2, 700
    outcome = run("featurize", "--split", "train", features=None, more=more)
    assert outcome.code == 0, outcome.err
    assert wire.cuts == 0
    assert f"fetched {uri} (0.0 MB) in " in outcome.err
    store = FeatureStore.open(project / "storage/features/by-uri/train")
    assert store.manifest.fingerprint == local.manifest.fingerprint
    assert store.samples.equals(local.samples)
    for name in local.tensor_names:
        assert torch.equal(store.read(name), local.read(name))
    outcome = run("featurize", "--split", "train", features=None, more=more)
    assert UP_TO_DATE in outcome.out
    assert "fetch" not in outcome.err


def test_inspect_reads_a_store_on_a_server(
    remote: str, run: Any, critic: WarmCritic, project: Path
) -> None:
    outcome = critic.run("inspect", remote, "--verify", folder=project)
    assert outcome.code == 0, outcome.err
    RemoteFolder(remote).upload(project / "train.jsonl", "units/00000.parquet")
    outcome = critic.run("inspect", remote, "--verify", folder=project)
    assert outcome.code == 2
    assert f"error: {remote}: damaged: unit 0 (00000.parquet: " in outcome.err
    assert run("featurize", "--split", "train").code == 0


def test_a_head_is_trained_and_judged_without_a_local_store(
    remote: str, run: Any, project: Path
) -> None:
    assert run("featurize", "--split", "valid").code == 0
    heads = f"s3://{BUCKET}/heads"
    more = ("checkpoint.s3_upload=true", f"checkpoint.s3_uri={heads}")
    outcome = run("train-head", more=more)
    assert outcome.code == 0, outcome.err
    outcome = run("eval", "--head", f"{heads}/demo/best")
    assert outcome.code == 0, outcome.err
    assert "accuracy over pairs" in outcome.out
    assert not (project / "storage/features/demo/valid").exists()


def test_a_bucket_that_is_not_there_is_not_made(run: Any) -> None:
    outcome = run("featurize", "--split", "valid", features="s3://misspelt/features")
    assert outcome.code == 2
    assert "error: s3://misspelt/features/demo/valid/plan.json: no such bucket" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not s3fs.S3FileSystem(skip_instance_cache=True).exists("misspelt")


def test_a_large_file_is_sent_in_parts_and_seen_whole_or_not_at_all(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)
    content = os.urandom(12 << 20)  # three parts
    (tmp_path / "large").write_bytes(content)
    folder = RemoteFolder(f"s3://{BUCKET}/parts")
    seen, is_sent = set(), threading.Event()

    def watch() -> None:
        url = f"http://127.0.0.1:{wire.server_port}/{BUCKET}?list-type=2&prefix=parts/"
        while not is_sent.is_set():
            with urllib.request.urlopen(url) as answer:
                text = answer.read().decode()
            seen.add(text.partition("<Size>")[2].partition("</Size>")[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    wire.cuts, wire.cut_after = 2, 1 << 20
    try:
        folder.upload(tmp_path / "large", "large")
    finally:
        is_sent.set()
        watcher.join()
    assert wire.cuts == 0
    assert seen <= {"", str(len(content))}
    assert folder.read("large") == content
    found = s3fs.S3FileSystem(skip_instance_cache=True).info(f"{BUCKET}/parts/large")
    assert found["ETag"].strip('"').endswith("-3")  # of a file in three parts
