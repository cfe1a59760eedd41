"""Writes a critic as an MLflow model, or registers it on a tracking server."""

import contextlib
import importlib.metadata
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featurize.settings import BackboneSettings
from headtrain.export.head_folder import ExportError, copy_head, new_folder
from headtrain.head.checkpoint import TrainedHead
from headtrain.scoring.scorer import Scorer

VARIABLE = "MLFLOW_TRACKING_URI"

CODE = Path(__file__).parent / "mlflow_model.py"


def save_mlflow_model(
    head: TrainedHead, backbone: BackboneSettings, out: Path, *, overwrite: bool = False
) -> Path:
    """Write a folder that `mlflow.pyfunc.load_model` reads.

    The backbone is not copied; its place is in the model's config, and `model_config=` names
    another one.

    Raises:
        ExportError: the folder exists, or is not of an export.
        CheckpointError: the head has no calibration, so there are no probabilities.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of MLflow's own type hints
            import mlflow.pyfunc
    except ImportError as error:  # MLflow's models need pandas
        raise ExportError(
            f"--to mlflow: {error.name} is not installed; pip install 'critic[mlflow]'"
        ) from error

    Scorer(head).check_calibration()
    with (
        new_folder(out, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory() as place,
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        mlflow.pyfunc.save_model(path=str(folder), **_options(head, backbone, Path(place)))
    return out


def register_mlflow_model(
    head: TrainedHead, backbone: BackboneSettings, name: str, *, tracking_uri: str, experiment: str
) -> str:
    """Log a model to a tracking server and register it; returns its URI, models:/<name>/<version>.

    Raises:
        ExportError: the server refuses, or does not answer.
        CheckpointError: the head has no calibration, so there are no probabilities.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    Scorer(head).check_calibration()
    try:
        with (
            tracking_at(tracking_uri),
            tempfile.TemporaryDirectory() as place,
            warnings.catch_warnings(action="ignore", category=UserWarning),
        ):
            mlflow.set_experiment(experiment)
            with mlflow.start_run(run_name=f"export {name}"):
                info = mlflow.pyfunc.log_model(
                    name="critic",
                    registered_model_name=name,
                    **_options(head, backbone, Path(place)),
                )
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"--register {name!r}: {reason}; check mlflow.tracking_uri") from error
    return f"models:/{name}/{info.registered_model_version}"


@contextlib.contextmanager
def tracking_at(uri: str) -> Iterator[None]:
    """Let MLflow's global functions use a server or database.

    The variable that `set_tracking_uri` writes is restored as well: what follows in this process
    would take it for the user's.
    """
    import mlflow

    before, variable = mlflow.get_tracking_uri(), os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable


def _options(head: TrainedHead, backbone: BackboneSettings, place: Path) -> dict[str, Any]:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    texts: list[Any] = [ColSpec(DataType.string, name) for name in ("prompt", "output")]
    numbers: list[Any] = [ColSpec(DataType.double, name) for name in ("value", "probability")]
    return {
        # NOTE: a path, not an object: MLflow would pickle an object.
        "python_model": str(CODE),
        "artifacts": {"head": str(copy_head(head, place / "head"))},
        "model_config": {
            "backbone": backbone.path,
            "tokenizer": backbone.tokenizer_path,
            "device": "auto",
        },
        "signature": ModelSignature(inputs=Schema(texts), outputs=Schema(numbers)),
        "pip_requirements": [f"critic=={importlib.metadata.version('critic')}"],
    }
