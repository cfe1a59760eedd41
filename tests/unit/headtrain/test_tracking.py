import logging
import warnings
from pathlib import Path

import pytest

from featurize.errors import CriticError
from headtrain.tracking import MlflowTracker, NullTracker, Tracker, flatten

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


def test_the_null_tracker_follows_nothing() -> None:
    tracker: Tracker = NullTracker()
    assert tracker.begin(CONFIG, None) is None
    assert tracker.begin(CONFIG, "run") == "run"
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.flush()
    tracker.log_files([], "heads")
    tracker.finish()
    tracker.log_evaluation(None, {}, [])


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


def test_a_run_goes_on_under_its_id(database: Path) -> None:
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


def test_whole_runs_below_a_run_are_told_and_torn_ones_go(database: Path) -> None:
    tracker, other = make(database, "sweeps"), make(database, "sweeps")
    run_id = tracker.begin({}, None)
    assert other.begin({}, None) != run_id
    assert tracker.child_names() == set()
    tracker.log_child("seed=1", {"seed": "1"}, [(1, {"loss": 0.5})])
    other.log_child("another's", {}, [])
    client = tracker._connect()
    tags = {"mlflow.parentRunId": str(run_id)}
    torn = client.create_run(tracker._experiment_id(), tags=tags, run_name="seed=2").info.run_id
    again = make(database, "sweeps")
    assert again.begin({}, run_id) == run_id
    assert again.child_names() == {"seed=1"}
    assert client.get_run(torn).info.lifecycle_stage == "deleted"
    again.log_child("seed=2", {}, [])
    assert again.child_names() == {"seed=1", "seed=2"}


def test_a_run_the_database_has_lost_begins_anew(database: Path) -> None:
    tracker = make(database)
    run_id = tracker.begin(CONFIG, "0" * 32)
    tracker.finish()
    assert run_id not in (None, "0" * 32)


def test_a_run_that_was_deleted_begins_anew_and_an_evaluation_makes_another(
    database: Path,
) -> None:
    tracker = make(database)
    deleted = tracker.begin(CONFIG, None)
    tracker.finish()
    assert deleted is not None
    tracker._connect().delete_run(deleted)
    again = make(database)
    assert again.begin(CONFIG, deleted) not in (None, deleted)
    again.finish()
    make(database).log_evaluation(deleted, {"eval/accuracy": 0.7}, [])
    assert again.history(deleted, ["eval/accuracy"]) == {}


def test_metrics_wait_until_flushed(database: Path) -> None:
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
    (tmp_path / "report.md").write_text("# Report")
    make(database).log_evaluation(run_id, {"eval/accuracy": 0.7}, [tmp_path / "report.md"])
    client = training._connect()
    assert client.get_run(run_id).data.metrics["eval/accuracy"] == 0.7
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run_id, "evaluation")] == ["evaluation/report.md"]


def test_an_evaluation_without_a_run_makes_one(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make(database, "orphans")
    tracker.log_evaluation(None, {"eval/accuracy": 0.6}, [])
    tracker.log_evaluation("0" * 32, {"eval/accuracy": 0.7}, [])
    client = tracker._connect()
    experiment = client.get_experiment_by_name("orphans")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.metrics["eval/accuracy"] for run in runs) == [0.6, 0.7]
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
