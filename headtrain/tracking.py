"""Follows runs in MLflow: the only file that knows MLflow."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.errors import CriticError
from headtrain.tracker import NullTracker, Point, Status, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["CriticError", "MlflowTracker", "NullTracker", "Point", "Status", "Tracker", "flatten"]

# NOTE: a step of training takes about a millisecond, a metric in the database a third of one; so
# metrics wait, and a run that is over in a minute writes them when it is done. Checkpoints keep
# what waits (see `waiting`), so that a kill loses none.
MOST_WAITING_METRICS = 20_000
SECONDS_BETWEEN_WRITES = 60.0
LONGEST_PARAMETER = 500  # what every MLflow server accepts; config.json has the whole value

logger = logging.getLogger(__name__)


class MlflowTracker:
    """Follows one run in an MLflow server (http://) or database (sqlite:///)."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        artifact_root: Path | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`artifact_root` is where a new experiment's files go; None leaves it to the server."""
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.artifact_root = artifact_root
        self.run_name = run_name
        self.tags = dict(tags or {})
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._waiting: list[Metric] = []
        self._last_write = time.monotonic()

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or go on with run_id if the server still has it."""
        with self._one_line_errors():
            if run_id is not None and self._has_run(run_id):
                self._connect().update_run(run_id, status="RUNNING")
                self.run_id = run_id
            else:
                self.run_id = self._create_run()
                self._log_config(self.run_id, config)
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note metrics; they are written in batches."""
        self._waiting += self._to_metrics(metrics, step)
        is_late = time.monotonic() - self._last_write > SECONDS_BETWEEN_WRITES
        if is_late or len(self._waiting) >= MOST_WAITING_METRICS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        assert self.run_id is not None, "begin comes first"
        with self._one_line_errors():
            for start in range(0, len(self._waiting), 1000):  # what a server takes at once
                self._connect().log_batch(self.run_id, self._waiting[start : start + 1000])
        self._waiting = []
        self._last_write = time.monotonic()

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of what was noted and not yet written."""
        steps: dict[int, dict[str, float]] = {}
        for metric in self._waiting:
            steps.setdefault(metric.step, {})[metric.key] = metric.value
        return list(steps.items())

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, below `folder`."""
        assert self.run_id is not None, "begin comes first"
        with self._one_line_errors():
            for file in files:
                self._connect().log_artifact(self.run_id, str(file), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is waiting and close the run."""
        if self.run_id is not None:
            self.flush()
            with self._one_line_errors():
                self._connect().set_terminated(self.run_id, status=status)

    def log_child(
        self,
        name: str,
        parameters: Mapping[str, str],
        history: Sequence[tuple[int, Mapping[str, float]]],
    ) -> None:
        """Note a finished run below this one."""
        from mlflow.entities import Param

        assert self.run_id is not None, "begin comes first"
        with self._one_line_errors():
            tags = {**self.tags, "mlflow.parentRunId": self.run_id}
            run = self._connect().create_run(self._experiment_id(), tags=tags, run_name=name)
            child = str(run.info.run_id)
            metrics = [
                metric for step, values in history for metric in self._to_metrics(values, step)
            ]
            params = [Param(key, value[:LONGEST_PARAMETER]) for key, value in parameters.items()]
            self._connect().log_batch(child, metrics=metrics[:900], params=params)
            for start in range(900, len(metrics), 900):
                self._connect().log_batch(child, metrics=metrics[start : start + 900])
            self._connect().set_terminated(child)

    def child_names(self) -> Collection[str]:
        """Names of the whole runs noted below this one; what a kill left of others goes."""
        assert self.run_id is not None, "begin comes first"
        names: set[str] = set()
        with self._one_line_errors():
            client, below = self._connect(), f"tags.`mlflow.parentRunId` = '{self.run_id}'"
            token: str | None = None
            while token is None or token:
                page = client.search_runs(
                    [self._experiment_id()], below, max_results=1000, page_token=token
                )
                for run in page:
                    if run.info.status == "FINISHED":
                        names.add(str(run.info.run_name))
                    else:
                        client.delete_run(run.info.run_id)
                token = page.token or ""
        return names

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it is gone.

        Files keep their folders below that of the first one.
        """
        with self._one_line_errors():
            client = self._connect()
            if run_id is None or not self._has_run(run_id):
                logger.warning("run %s is not in %s; a new one is made", run_id, self.tracking_uri)
                run_id = self._create_run()
                client.set_terminated(run_id)
            client.log_batch(run_id, self._to_metrics(metrics, step=0))
            for file in files:
                below = file.parent.relative_to(files[0].parent)
                client.log_artifact(run_id, str(file), (Path("evaluation") / below).as_posix())

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """What a run has logged of these metrics; a run that is gone has nothing."""
        with self._one_line_errors():
            if run_id is None or not self._has_run(run_id):
                return {}
            found = {
                name: sorted(
                    (int(metric.step), float(metric.value))
                    for metric in self._connect().get_metric_history(run_id, name)
                )
                for name in names
            }
        return {name: points for name, points in found.items() if points}

    def _create_run(self) -> str:
        run = self._connect().create_run(
            self._experiment_id(), tags=self.tags, run_name=self.run_name
        )
        return str(run.info.run_id)

    def _log_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [
            Param(key, value[:LONGEST_PARAMETER]) for key, value in flatten(config).items()
        ]
        for start in range(0, len(parameters), 100):  # what a server takes at once
            self._connect().log_batch(run_id, params=parameters[start : start + 100])
        self._connect().log_dict(run_id, dict(config), "config.json")

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            self._client = _quiet_client(self.tracking_uri)
        return self._client

    def _experiment_id(self) -> str:
        client = self._connect()
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = self.artifact_root.absolute().as_uri() if self.artifact_root else None
            return str(client.create_experiment(self.experiment, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            raise CriticError(
                f"mlflow.experiment {self.experiment!r} was deleted in {self.tracking_uri}; "
                "restore it there or name another"
            )
        return str(found.experiment_id)

    def _has_run(self, run_id: str) -> bool:
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            stage: str = client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return stage == "active"  # one that was deleted is kept for a while, but takes nothing

    def _to_metrics(self, metrics: Mapping[str, float], step: int) -> "list[Metric]":
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        return [Metric(name, float(value), now, step) for name, value in metrics.items()]

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """MLflow's errors as ours."""
        # NOTE: before the first import; MLflow reports its use to its makers unless told not to.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import (
            SQLAlchemyError,
        )  # of the local database; MLflow lets some through

        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise CriticError(f"mlflow.tracking_uri {self.tracking_uri!r}: {reason}") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _quiet_client(tracking_uri: str) -> "MlflowClient":
    """Open the server or database without MLflow's log of every table it makes."""
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets their levels itself
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri)
