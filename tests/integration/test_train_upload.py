"""Heads copied to a real S3 server (moto's, on loopback) while the run goes on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headtrain.head.checkpoint import CheckpointError, load_head
from tests.support.s3_server import BUCKET, s3_server
from tests.support.train_runs import Killed, assert_same_weights, head_at, kill_at, make_train


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket; its URI."""
    with s3_server():
        yield f"s3://{BUCKET}/critic"


def test_best_and_final_are_whole_on_the_server(bucket: str, tmp_path: Path) -> None:
    train = make_train(tmp_path)
    result = train("first", checkpoint={"s3_upload": True, "s3_uri": bucket})
    for name, folder in (("best", result.best), ("final", result.final)):
        copied = load_head(f"{bucket}/first/{name}")
        assert folder is not None
        assert copied.record == load_head(folder).record
        assert_same_weights(folder, Path(folder))
    assert load_head(f"{bucket}/first").record.step == result.best_step
    with pytest.raises(CheckpointError, match=r"head\.json"):
        load_head(f"{bucket}/second")


def test_an_upload_is_whole_before_old_checkpoints_are_cleaned_up(
    bucket: str, tmp_path: Path
) -> None:
    train = make_train(tmp_path)
    seen = []

    def look(done: int, _total: int) -> None:
        steps = sorted(folder.name for folder in (tmp_path / "racing").glob("step-*"))
        assert len(steps) <= 1
        if done > 4:
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
    assert load_head(f"{bucket}/killed/final").record == head_at(result.final).record


def test_a_bucket_that_is_not_there_ends_the_run_in_one_line(bucket: str, tmp_path: Path) -> None:
    train = make_train(tmp_path)
    with pytest.raises((OSError, ValueError)) as caught:
        train("nowhere", checkpoint={"s3_upload": True, "s3_uri": "s3://nowhere/critic"})
    assert os.linesep not in str(caught.value)
    assert bucket.startswith("s3://")
