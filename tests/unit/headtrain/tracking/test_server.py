import logging
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from featurize.errors import CriticError
from headtrain.tracking.database import to_plain_folder
from headtrain.tracking.server import MlflowTracker, TrackingDown, flatten
from headtrain.tracking.tracker import Tracker

CONFIG = {"experiment": {"name": "demo"}, "training": {"features": ["mean.2"], "dropout": None}}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: making its tables takes seconds."""
    return tmp_path_factory.mktemp("tracking")


def make(database: Path, experiment: str = "critic") -> MlflowTracker:
    return MlflowTracker(
        f"sqlite:///{database}/new/mlflow.db",
        experiment,
        artifact_root=database / "artifacts",
        run_name="demo",
        tags={"stage": "critic"},
    )


def test_settings_become_dotted_parameters() -> None:
    assert flatten(CONFIG) == {
        "experiment.name": "demo",
        "training.features": '["mean.2"]',
        "training.dropout": "null",
    }
    assert flatten({}) == {}


def test_a_plain_tracker_discards_everything() -> None:
    tracker = Tracker()
    assert tracker.begin(CONFIG, None) is None
    assert tracker.begin(CONFIG, "run") == "run"
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.waiting() == []
    assert tracker.history("run", ["loss"]) == {}


def test_a_run_is_written_and_quietly(
    database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make(database)
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.filterwarnings("error", module="headtrain")
        run_id = tracker.begin(CONFIG, None)
        for step in range(700):
            tracker.log_metrics({"train/loss": 1 / (step + 1)}, step)
        (tmp_path / "head.json").write_text("{}")
        tracker.log_files([tmp_path / "head.json"], "heads/best")
        tracker.finish()
    assert run_id is not None
    assert not [line for line in caplog.records if line.name.startswith(("mlflow", "alembic"))]
    client = tracker._connect()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "demo"
    assert run.data.tags["stage"] == "critic"
    assert run.data.params["training.features"] == '["mean.2"]'
    history = client.get_metric_history(run_id, "train/loss")
    assert {line.step: line.value for line in history} == {s: 1 / (s + 1) for s in range(700)}
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.json", "heads"}
    assert list((database / "artifacts").rglob("head.json"))


def test_a_run_continues_under_its_id(database: Path) -> None:
    first = make(database)
    run_id = first.begin(CONFIG, None)
    first.log_metrics({"train/loss": 2.0}, 1)
    first.finish("KILLED")
    second = make(database)
    assert second.begin({"experiment": {"name": "changed"}}, run_id) == run_id
    second.log_metrics({"train/loss": 1.0}, 2)
    second.finish()
    assert run_id is not None
    run = second._connect().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["experiment.name"] == "demo"
    history = second._connect().get_metric_history(run_id, "train/loss")
    assert sorted(line.step for line in history) == [1, 2]


def test_a_child_run_is_finished_and_names_its_parent(database: Path) -> None:
    tracker = make(database, "sweeps")
    run_id = tracker.begin({}, None)
    history = [(step, {"loss": 1 / (step + 1)}) for step in range(1200)]
    tracker.log_child("seed=1", {"seed": "1"}, history)
    client = tracker._connect()
    [child] = client.search_runs([tracker._experiment_id()], "params.seed = '1'")
    assert child.info.status == "FINISHED"
    assert child.info.run_name == "seed=1"
    assert child.data.tags["mlflow.parentRunId"] == run_id
    assert tracker.history(child.info.run_id, ["loss"]) == {
        "loss": [(step, metrics["loss"]) for step, metrics in history]
    }


def test_a_run_that_is_gone_is_replaced(database: Path) -> None:
    tracker = make(database)
    deleted = tracker.begin(CONFIG, None)
    tracker.finish()
    assert deleted is not None
    tracker._connect().delete_run(deleted)
    for gone in (deleted, "0" * 32):
        again = make(database)
        assert again.begin(CONFIG, gone) not in (None, gone)
        again.finish()
        assert again.history(gone, ["train/loss"]) == {}


def test_metrics_are_buffered_until_flushed(database: Path) -> None:
    tracker = make(database)
    run_id = tracker.begin(CONFIG, None)
    assert run_id is not None
    tracker.log_metrics({"train/loss": 2.0}, 1)
    assert "train/loss" not in tracker._connect().get_run(run_id).data.metrics
    tracker.flush()
    assert tracker._connect().get_run(run_id).data.metrics == {"train/loss": 2.0}


def test_an_evaluation_joins_the_run_that_trained_the_head(database: Path, tmp_path: Path) -> None:
    training = make(database)
    run_id = training.begin(CONFIG, None)
    training.finish()
    assert run_id is not None
    (tmp_path / "valid").mkdir()
    files = [tmp_path / "valid.json", tmp_path / "valid/scores.png"]
    for file in files:
        file.write_text("content")
    make(database).log_evaluation(run_id, {"eval/accuracy": 0.7}, files)
    client = training._connect()
    assert client.get_run(run_id).data.metrics["eval/accuracy"] == 0.7
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(run_id, "evaluation")} == {
        "evaluation/valid.json",
        "evaluation/valid",
    }


@pytest.mark.parametrize("run_id", [None, "0" * 32])
def test_an_evaluation_without_a_run_makes_one(
    database: Path, caplog: pytest.LogCaptureFixture, run_id: str | None
) -> None:
    tracker = make(database, f"orphans of {run_id}")
    tracker.log_evaluation(run_id, {"eval/accuracy": 0.6}, [])
    [run] = tracker._connect().search_runs([tracker._experiment_id()])
    assert run.data.metrics == {"eval/accuracy": 0.6}
    assert "a new one is made" in caplog.text


def test_long_values_are_cut_and_stay_whole_in_the_file(database: Path) -> None:
    tracker = make(database)
    run_id = tracker.begin({"note": "x" * 9000, "empty": ""}, None)
    tracker.finish()
    assert run_id is not None
    assert len(tracker._connect().get_run(run_id).data.params["note"]) == 500
    path = next((database / "artifacts" / run_id).rglob("config.json"))
    assert "x" * 9000 in path.read_text()


def test_a_deleted_experiment_is_refused_with_a_remedy(database: Path) -> None:
    tracker = make(database, "deleted")
    tracker.begin(CONFIG, None)
    client = tracker._connect()
    experiment = client.get_experiment_by_name("deleted")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(CriticError, match="was deleted"):
        make(database, "deleted").begin(CONFIG, None)


def test_mlflows_errors_are_one_line_of_ours(tmp_path: Path) -> None:
    tracker = MlflowTracker((tmp_path / "mlruns").as_uri(), "critic")
    with pytest.raises(CriticError, match=r"mlflow\.tracking_uri 'file://") as caught:
        tracker.begin(CONFIG, None)
    assert "\n" not in str(caught.value)


def _log_run(folder: Path) -> str | None:
    tracker = MlflowTracker(
        f"sqlite:///{folder}/mlflow.db", "critic", artifact_root=folder / "artifacts"
    )
    run_id = tracker.begin(CONFIG, None)
    tracker.finish()
    return run_id


def test_a_database_that_has_moved_keeps_files_in_its_own_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        run_id = pool.submit(_log_run, old).result()  # MLflow remembers places within a process
    assert run_id is not None
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "head.json").write_text("{}")
    second = MlflowTracker(f"sqlite:///{new}/mlflow.db", "critic", artifact_root=new / "artifacts")
    second.log_evaluation(run_id, {"eval/accuracy": 0.7}, [tmp_path / "head.json"])
    assert second.begin(CONFIG, None) is not None
    second.finish()
    assert not (tmp_path / "old").exists()
    assert len(list((new / "artifacts").rglob("config.json"))) == 2
    assert (new / "artifacts" / run_id / "artifacts/evaluation/head.json").exists()


@pytest.mark.parametrize("name", ["100%", "a%20b", "why?", "no#1", "plain ü"])
def test_any_name_of_a_folder_keeps_database_and_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / name / "mlruns"
    folder.mkdir(parents=True)
    plain = to_plain_folder(folder)
    assert plain.resolve() == folder
    assert (plain == folder) == (name == "plain ü")
    tracker = MlflowTracker(
        f"sqlite:///{plain}/mlflow.db", "critic", artifact_root=plain / "artifacts"
    )
    tracker.begin(CONFIG, None)
    tracker.finish()
    assert (folder / "mlflow.db").exists()
    assert len(list((folder / "artifacts").rglob("config.json"))) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {name, "cache"}


def _begin(database: Path, number: int) -> str | None:
    return make(database, f"experiment {number % 2}").begin(CONFIG, None)


def test_processes_may_begin_at_once_on_a_new_database(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_begin, [tmp_path] * 3, range(3)))
    assert len(set(found)) == 3
    assert None not in found


@pytest.mark.parametrize("status", [None, 500])
def test_a_server_that_is_down_is_distinguished_from_a_mistake(status: int | None) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        if status is None:
            server.server_close()
        else:
            Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingDown, match=address):
            MlflowTracker(address, "critic").begin(CONFIG, None)
        if status is not None:
            server.shutdown()


def test_a_database_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    database = tmp_path / "new" / "mlflow.db"
    database.write_bytes(b"this was overwritten by something else" * 200)
    tracker = make(tmp_path)
    with pytest.raises(CriticError, match=r"mlflow\.tracking_uri 'sqlite:.*: .*not a database"):
        tracker.history("run", ["loss"])
