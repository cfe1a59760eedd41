"""Heads copied to a real S3 server (moto's, on loopback) while the run goes on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headtrain.checkpoint import CheckpointError, load_head
from headtrain.run import TrainProgress
from tests.train_runs import Killed, assert_same_weights, kill_at, make_train

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

ADDRESSES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket; its URI."""
    import s3fs

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ADDRESSES:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket/critic"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_best_and_final_are_whole_on_the_server(bucket: str, tmp_path: Path) -> None:
    train = make_train(tmp_path)
    result = train("first", checkpoint={"s3_upload": True, "s3_uri": bucket})
    for name, folder in (("best", result.best), ("final", result.final)):
        copied = load_head(f"{bucket}/first/{name}")
        assert folder is not None
        assert copied.record == load_head(folder).record
        assert_same_weights(folder, Path(folder))
    assert load_head(f"{bucket}/first").record.step == result.best_step
    with pytest.raises(CheckpointError, match="holds no head"):
        load_head(f"{bucket}/second")


def test_an_upload_is_whole_before_old_checkpoints_are_cleaned_up(
    bucket: str, tmp_path: Path
) -> None:
    train = make_train(tmp_path)
    seen = []

    def look(line: TrainProgress) -> None:
        steps = sorted(folder.name for folder in (tmp_path / "racing").glob("step-*"))
        assert len(steps) <= 1
        if line.step > 4:
            copied = load_head(f"{bucket}/racing/best")  # refuses weights of another record
            local = load_head(tmp_path / "racing/best")
            assert copied.record == local.record
            seen.append(copied.record.step)

    train(
        "racing",
        checkpoint={"s3_upload": True, "s3_uri": bucket, "save_total_limit": 1},
        progress=look,
    )
    assert len(seen) > 5


def test_a_killed_run_uploads_what_it_would_have(bucket: str, tmp_path: Path) -> None:
    train = make_train(tmp_path)
    checkpoint = {"s3_upload": True, "s3_uri": bucket}
    with pytest.raises(Killed):
        train("killed", checkpoint=checkpoint, progress=kill_at(15))
    result = train("killed", checkpoint=checkpoint)
    assert load_head(f"{bucket}/killed/final").record.step == result.num_steps
    assert result.final is not None
    assert load_head(f"{bucket}/killed/final").record == load_head(result.final).record


def test_a_bucket_that_is_not_there_ends_the_run_in_one_line(bucket: str, tmp_path: Path) -> None:
    train = make_train(tmp_path)
    with pytest.raises((OSError, ValueError)) as caught:
        train("nowhere", checkpoint={"s3_upload": True, "s3_uri": "s3://nowhere/critic"})
    assert os.linesep not in str(caught.value)
    assert bucket.startswith("s3://")
