"""What a server does not take waits in a folder, and is logged when the server answers."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from featurize.io.files import sole_writer
from headtrain.tracking.server import MlflowTracker, TrackingDown
from headtrain.tracking.waiting import WaitingTracker
from tests.support.row_files import read_rows


class Server(MlflowTracker):
    """A database that can be down; `calls_left` are the calls until then."""

    calls_left: int | None = None

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        if Server.calls_left is not None:
            Server.calls_left -= 1
            if Server.calls_left < 0:
                raise TrackingDown(f"mlflow.tracking_uri {self.tracking_uri!r}: refused")
        with super()._one_line_errors():
            yield


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: making its tables takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture
def make(database: Path, tmp_path: Path):
    """Makes a tracker; `is_down`, or a number of calls until the server is."""

    def make(*, is_down: bool | int = False) -> WaitingTracker:
        Server.calls_left = 0 if is_down is True else None if is_down is False else is_down
        uri = f"sqlite:///{database}/mlflow.db"
        folder = database / "artifacts"
        return WaitingTracker(
            lambda: Server(uri, tmp_path.name, artifact_root=folder, run_name="demo"),
            tmp_path / "waiting",
        )

    yield make
    Server.calls_left = None


def runs(tracker: WaitingTracker) -> list:
    client, experiment = tracker.server._connect(), tracker.server._experiment_id()
    return client.search_runs([experiment])


def log_run(tracker: WaitingTracker, folder: Path) -> str | None:
    """Log a whole run as training does."""
    run_id = tracker.begin({"experiment": {"name": "demo"}}, None)
    for step in range(3):
        tracker.log_metrics({"train/loss": 1 / (step + 1)}, step)
    head = folder / "best" / "head.json"
    head.parent.mkdir(exist_ok=True)
    head.write_text("{}")
    tracker.log_files([head], "heads/best")
    tracker.log_child("seed=1", {"seed": "1"}, [(0, {"loss": 1.0})])
    tracker.finish()
    shutil.rmtree(head.parent)
    return run_id


# 0: down from the first call on; 1: after begin; 2: after flush of finish or files; and so on.
@pytest.mark.parametrize("calls", range(6))
def test_a_run_is_logged_whole_when_the_server_answers_again(make, tmp_path, calls, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        run_id = log_run(make(is_down=True if calls == 0 else calls), tmp_path)
    assert len(caplog.records) == (calls < 5)
    tracker = make()
    tracker.log_evaluation(run_id, {"eval/accuracy": 0.7}, [])
    [child] = [run for run in runs(tracker) if run.info.run_name == "seed=1"]
    [run] = [run for run in runs(tracker) if run.info.run_name == "demo"]
    assert run.info.status == child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert run.data.params == {"experiment.name": "demo"}
    assert run.data.metrics["eval/accuracy"] == 0.7
    assert tracker.history(run_id, ["train/loss"]) == {
        "train/loss": [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    }
    client = tracker.server._connect()
    assert [file.path for file in client.list_artifacts(run.info.run_id, "heads/best")] == [
        "heads/best/head.json"
    ]
    assert not list((tmp_path / "waiting").glob("*/events.jsonl"))
    assert not list((tmp_path / "waiting").glob("*/files"))


def test_an_evaluation_of_a_run_that_waits_joins_it(make, tmp_path) -> None:
    run_id = log_run(make(is_down=True), tmp_path)
    file = tmp_path / "valid.json"
    file.write_text("{}")
    make(is_down=True).log_evaluation(run_id, {"eval/accuracy": 0.7}, [file])
    file.unlink()
    tracker = make()
    assert tracker.begin({}, None) != run_id
    [run] = [run for run in runs(tracker) if "eval/accuracy" in run.data.metrics]
    assert (run.info.run_name, run.info.status) == ("demo", "FINISHED")


def test_a_run_that_waits_is_continued_under_its_id(make, tmp_path) -> None:
    first = make(is_down=True)
    run_id = first.begin({"a": 1}, None)
    first.log_metrics({"loss": 2.0}, 1)
    assert first.waiting() == [(1, {"loss": 2.0})]
    first.finish("KILLED")
    second = make()
    known = second.begin({"a": 1}, run_id)
    second.log_metrics({"loss": 1.0}, 2)
    second.finish()
    assert second.history(known, ["loss"]) == {"loss": [(1, 2.0), (2, 1.0)]}
    assert second.history(run_id, ["loss"]) == second.history(known, ["loss"])
    assert len(runs(second)) == 1


def test_a_call_that_was_sent_is_not_repeated(make, tmp_path) -> None:
    run_id = log_run(make(is_down=True), tmp_path)
    for calls in range(1, 5):
        make(is_down=calls).history(run_id, ["train/loss"])
    tracker = make()
    tracker.history(run_id, ["train/loss"])
    assert sorted(run.info.run_name for run in runs(tracker)) == ["demo", "seed=1"]


def test_a_torn_last_line_is_left_out(make, tmp_path) -> None:
    run_id = log_run(make(is_down=True), tmp_path)
    events = tmp_path / "waiting" / str(run_id) / "events.jsonl"
    with events.open("a") as file:
        file.write('{"call": "log_his')
    tracker = make()
    assert tracker.history(run_id, ["train/loss"])["train/loss"][0] == (0, 1.0)


def test_what_waits_for_another_server_or_is_being_written_stays(make, tmp_path) -> None:
    other = log_run(make(is_down=True), tmp_path)
    events = tmp_path / "waiting" / str(other) / "events.jsonl"
    lines = read_rows(events)
    for line in lines:
        line["server"]["tracking_uri"] = "http://elsewhere"
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    active = log_run(make(is_down=True), tmp_path)
    with sole_writer(tmp_path / "waiting" / str(active)):
        make().begin({}, None)
    assert sorted(path.parent.name for path in (tmp_path / "waiting").glob("*/events.jsonl")) == (
        sorted([str(other), str(active)])
    )
