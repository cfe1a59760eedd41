"""What an evaluation leaves with the tracker, and what the report reads back from it."""

from pathlib import Path

import pytest

from headtrain.tracking import MlflowTracker, NullTracker


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracker:
    folder = tmp_path_factory.mktemp("tracking")
    tracker = MlflowTracker(
        f"sqlite:///{folder}/mlflow.db", "critic", artifact_root=folder / "artifacts"
    )
    tracker.begin({}, None)
    for step, value in ((20, 0.7), (10, 0.6), (30, 0.8)):
        tracker.log_metrics({"train/accuracy": value}, step)
    tracker.finish()
    return tracker


def test_the_history_of_a_run_is_read_back_in_order(tracker: MlflowTracker) -> None:
    found = tracker.history(tracker.run_id, ["train/accuracy", "valid/accuracy_over_pairs"])
    assert found == {"train/accuracy": [(10, 0.6), (20, 0.7), (30, 0.8)]}


def test_a_run_that_is_gone_has_no_history(tracker: MlflowTracker) -> None:
    assert tracker.history("0" * 32, ["train/accuracy"]) == {}
    assert tracker.history(None, ["train/accuracy"]) == {}
    assert NullTracker().history("run", ["train/accuracy"]) == {}


def test_pictures_keep_their_folder_beside_the_evaluation(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    files = [tmp_path / "valid.json", tmp_path / "valid.html", tmp_path / "valid" / "sweep.png"]
    files[-1].parent.mkdir()
    for file in files:
        file.write_text("x")
    tracker.log_evaluation(tracker.run_id, {"eval/valid/gap": 0.5}, files)
    assert tracker.run_id is not None
    client = tracker._connect()
    listed = [
        file.path
        for folder in ("evaluation", "evaluation/valid")
        for file in client.list_artifacts(tracker.run_id, folder)
    ]
    assert {"evaluation/valid.json", "evaluation/valid.html", "evaluation/valid/sweep.png"} < set(
        listed
    )
    assert client.get_run(tracker.run_id).data.metrics["eval/valid/gap"] == 0.5
