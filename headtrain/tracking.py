"""Logs runs to MLflow; no other file imports MLflow."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featurize.errors import CriticError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

# NOTE: a training step takes about a millisecond, writing a metric to the database a third of one.
# So metrics are buffered, and a run that takes less than a minute writes them at its end.
# Checkpoints contain the buffer (see `waiting`), so that a kill loses no metric.
MAX_BUFFERED = 20_000
SECONDS_BETWEEN_WRITES = 60.0
MAX_PARAMETER_LENGTH = 500  # every MLflow server accepts it; config.json has the whole value
MAX_METRICS, MAX_PARAMETERS = 1000, 100  # of one request to a server

Status = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[int, float]
"""Optimizer step, value of a metric."""

logger = logging.getLogger(__name__)


class Tracker:
    """Receives what training, sweeps and evaluation log. This base class discards it."""

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or continue `run_id` if it still exists; return the id of the run."""
        return run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of an optimizer step; they may be buffered."""

    def flush(self) -> None:
        """Write what is buffered."""

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Return step and metrics of everything that is buffered."""
        return []

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, in the run's folder `folder`."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run."""

    def log_child(
        self,
        name: str,
        parameters: Mapping[str, str],
        history: Sequence[tuple[int, Mapping[str, float]]],
    ) -> None:
        """Log a finished run as a child of this one; `history` is step and metrics."""

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it is gone.

        Files keep their folders relative to that of the first one.
        """

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Return the logged points of those metrics that a run has, in the order of the steps."""
        return {}


class NullTracker(Tracker):
    """Tracks nothing."""


class MlflowTracker(Tracker):
    """Logs to an MLflow server (http://) or database (sqlite:///)."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        artifact_root: Path | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`artifact_root` is the place for the files of a new experiment; None: the server's."""
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.artifact_root = artifact_root
        self.run_name = run_name
        self.tags = dict(tags or {})
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._buffer: list[Metric] = []
        self._last_write = time.monotonic()

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or continue `run_id` if it still exists; return the id of the run."""
        with self._one_line_errors():
            if run_id is not None and self._has_run(run_id):
                self._connect().update_run(run_id, status="RUNNING")
                self.run_id = run_id
            else:
                self.run_id = self._create_run(self.run_name, self.tags)
                self._log_batch(self.run_id, params=_to_params(flatten(config)))
                self._connect().log_dict(self.run_id, dict(config), "config.json")
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Buffer metrics; write the buffer if it is full or old."""
        self._buffer += _to_metrics([(step, metrics)])
        is_late = time.monotonic() - self._last_write > SECONDS_BETWEEN_WRITES
        if is_late or len(self._buffer) >= MAX_BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        with self._one_line_errors():
            self._log_batch(self._current_run(), metrics=self._buffer)
        self._buffer = []
        self._last_write = time.monotonic()

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Return step and metrics of everything that is buffered."""
        steps: dict[int, dict[str, float]] = {}
        for metric in self._buffer:
            steps.setdefault(metric.step, {})[metric.key] = metric.value
        return list(steps.items())

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, in the run's folder `folder`."""
        with self._one_line_errors():
            for file in files:
                self._connect().log_artifact(self._current_run(), str(file), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run."""
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
        """Log a finished run as a child of this one; `history` is step and metrics."""
        with self._one_line_errors():
            tags = {**self.tags, "mlflow.parentRunId": self._current_run()}
            child = self._create_run(name, tags)
            self._log_batch(child, metrics=_to_metrics(history), params=_to_params(parameters))
            self._connect().set_terminated(child)

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it is gone."""
        with self._one_line_errors():
            client = self._connect()
            if run_id is None or not self._has_run(run_id):
                logger.warning("run %s is not in %s; a new one is made", run_id, self.tracking_uri)
                run_id = self._create_run(self.run_name, self.tags)
                client.set_terminated(run_id)
            self._log_batch(run_id, metrics=_to_metrics([(0, metrics)]))
            for file in files:
                below = file.parent.relative_to(files[0].parent)
                client.log_artifact(run_id, str(file), (Path("evaluation") / below).as_posix())

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Return the logged points of those metrics that a run has, in the order of the steps."""
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

    def _current_run(self) -> str:
        assert self.run_id is not None, "begin comes first"
        return self.run_id

    def _create_run(self, name: str | None, tags: dict[str, str]) -> str:
        client = self._connect()
        return str(client.create_run(self._experiment_id(), tags=tags, run_name=name).info.run_id)

    def _log_batch(
        self, run_id: str, *, metrics: "Sequence[Metric]" = (), params: "Sequence[Param]" = ()
    ) -> None:
        """Write metrics and parameters in batches that a server accepts."""
        client = self._connect()
        for start in range(0, len(params), MAX_PARAMETERS):
            client.log_batch(run_id, params=params[start : start + MAX_PARAMETERS])
        for start in range(0, len(metrics), MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])

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
        """Whether a run exists; a deleted run is kept for a while but accepts nothing."""
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn errors of MLflow and its database into one line that names the setting."""
        # NOTE: set before the first import; MLflow sends usage data unless it is disabled.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise CriticError(f"mlflow.tracking_uri {self.tracking_uri!r}: {reason}") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted keys: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _to_metrics(history: Iterable[tuple[int, Mapping[str, float]]]) -> "list[Metric]":
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(name, float(value), now, step)
        for step, metrics in history
        for name, value in metrics.items()
    ]


def _to_params(parameters: Mapping[str, str]) -> "list[Param]":
    from mlflow.entities import Param

    return [Param(key, value[:MAX_PARAMETER_LENGTH]) for key, value in parameters.items()]


def _quiet_client(tracking_uri: str) -> "MlflowClient":
    """Open the server or database without MLflow's log of every table it creates."""
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets their levels itself
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri)
