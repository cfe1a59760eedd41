"""A critic as an MLflow model gives the critic's verdicts, and nothing in it is pickled."""

import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from headtrain.export.fold import ExportError
from headtrain.export.mlflow_folder import (
    register_mlflow_model,
    save_mlflow_model,
    tracking_at,
)
from headtrain.head.checkpoint import CheckpointError, load_head
from headtrain.scoring.critic import Critic
from headtrain.scoring.provenance import Provenance
from tests.support.scored_projects import ScoredProject, make_project

ROWS = pd.DataFrame(
    {"prompt": ["Add.", "Print.", "Add."], "output": ["return a + b", "print(1)", "pass"]}
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoredProject:
    return make_project(tmp_path_factory.mktemp("project"))


def assert_verdicts(project: ScoredProject, found: pd.DataFrame) -> None:
    critic = Critic.load(project.head, device="cpu")
    first, third = critic.judge("Add.", ["return a + b", "pass"])
    [second] = critic.judge("Print.", ["print(1)"])
    wanted = [first, second, third]
    assert found["value"].tolist() == pytest.approx([v.value for v in wanted], abs=1e-5)
    assert found["probability"].tolist() == pytest.approx([v.probability for v in wanted], abs=1e-5)


def test_a_saved_model_is_loaded_from_code(project: ScoredProject, tmp_path: Path) -> None:
    head = load_head(project.head)
    backbone = Provenance.of(head).backbone
    out = save_mlflow_model(head, backbone, tmp_path / "model")
    assert not [path for path in out.rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert_verdicts(project, mlflow.pyfunc.load_model(str(out)).predict(ROWS))
    with pytest.raises(ExportError, match="exists"):
        save_mlflow_model(head, backbone, out)


def test_a_registered_model_is_loaded_by_its_name(project: ScoredProject, tmp_path: Path) -> None:
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
        assert_verdicts(project, mlflow.pyfunc.load_model(place).predict(ROWS))


def test_a_head_without_calibration_has_no_probabilities(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    head = load_head(project.head)
    object.__setattr__(head.record, "fitted", None)
    with pytest.raises(CheckpointError, match="no calibration"):
        save_mlflow_model(head, Provenance.of(head).backbone, tmp_path / "model-out")
