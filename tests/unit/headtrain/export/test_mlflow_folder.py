"""A critic as an MLflow model gives the critic's verdicts, and nothing in it is pickled."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from headtrain.export.head_folder import ExportError
from headtrain.export.mlflow_folder import register_mlflow_model, save_mlflow_model, tracking_at
from headtrain.head.checkpoint import CheckpointError, load_head
from headtrain.scoring.critic import Critic
from headtrain.scoring.provenance import Provenance
from tests.support.scored_projects import ScoredProject, make_project

ROWS = pd.DataFrame(
    {"prompt": ["Add.", "Print.", "Add."], "output": ["return a + b", "print(1)", "pass"]}
)


def assert_verdicts(critic: Critic, found: pd.DataFrame) -> None:
    first, third = critic.judge("Add.", ["return a + b", "pass"])
    [second] = critic.judge("Print.", ["print(1)"])
    wanted = [first, second, third]
    assert found["value"].tolist() == pytest.approx([v.value for v in wanted], abs=1e-5)
    assert found["probability"].tolist() == pytest.approx([v.probability for v in wanted], abs=1e-5)


def test_a_saved_model_is_loaded_from_code(
    project: ScoredProject, critic: Critic, tmp_path: Path
) -> None:
    head = load_head(project.head)
    backbone = Provenance.of(head).backbone
    with warnings.catch_warnings(action="error"):
        out = save_mlflow_model(head, backbone, tmp_path / "model")
    assert not [path for path in out.rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert_verdicts(critic, mlflow.pyfunc.load_model(str(out)).predict(ROWS))
    with pytest.raises(ExportError, match="exists"):
        save_mlflow_model(head, backbone, out)


@pytest.mark.slow
def test_a_served_model_answers_as_the_critic(
    project: ScoredProject, critic: Critic, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi")  # of the whole mlflow
    head = load_head(project.head)
    model = save_mlflow_model(head, Provenance.of(head).backbone, tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    server = subprocess.Popen(
        [*command, "--workers", "1", "--port", str(port), "--model-uri", str(model)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    try:
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert server.poll() is None, "mlflow models serve has ended"
            time.sleep(0.2)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": ROWS.to_dict(orient="split")}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            found = json.load(reply)["predictions"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert_verdicts(critic, pd.DataFrame(found))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except OSError:
        return False


def test_a_registered_model_is_loaded_by_its_name(
    project: ScoredProject, critic: Critic, tmp_path: Path
) -> None:
    head = load_head(project.head)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    before = mlflow.get_tracking_uri()
    with tracking_at(uri):
        mlflow.create_experiment("critic", artifact_location=(tmp_path / "artifacts").as_uri())
    place = register_mlflow_model(
        head, Provenance.of(head).backbone, "judge", tracking_uri=uri, experiment="critic"
    )
    assert place == "models:/judge/1"
    assert mlflow.get_tracking_uri() == before
    assert os.environ.get("MLFLOW_TRACKING_URI") == variable
    with tracking_at(uri):
        assert_verdicts(critic, mlflow.pyfunc.load_model(place).predict(ROWS))


def test_a_head_without_calibration_has_no_probabilities(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    head = load_head(project.head)
    object.__setattr__(head.record, "fitted", None)
    with pytest.raises(CheckpointError, match="no calibration"):
        save_mlflow_model(head, Provenance.of(head).backbone, tmp_path / "model-out")
