"""Logs runs to an MLflow server or database; besides it only exports import MLflow."""

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.errors import CriticError
from featurize.io.files import sole_writer
from headtrain.tracking.database import (
    DatabaseDown,
    DatabaseRefused,
    check_answer,
    follow_folder,
    is_mistake,
    is_network_database,
    with_timeout,
    without_password,
)
from headtrain.tracking.tracker import History, Point, Status, Tracker

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

SECONDS_TO_MAKE_TABLES = 120.0

SECONDS_TO_ANSWER = 8
"""A server that does not answer in this time is down; training continues without it."""

_DOWN = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""Error codes of a server that may answer later."""

logger = logging.getLogger(__name__)


class TrackingDown(CriticError):
    """The tracking server does not answer now; it may later."""


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

    def log_history(self, history: History, at: float) -> None:
        """Log metrics that were measured at a time, in seconds since 1970."""
        with self._one_line_errors():
            self._log_batch(self._current_run(), metrics=_to_metrics(history, at))

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
        history: History,
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
                logger.warning("run %s is not in %s; a new one is made", run_id, self._shown_uri)
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
            # NOTE: two processes that make the tables of one database at once both fail.
            if is_network_database(self.tracking_uri):
                check_answer(self.tracking_uri, SECONDS_TO_ANSWER)
            with self._alone():
                self._client = _quiet_client(with_timeout(self.tracking_uri, SECONDS_TO_ANSWER))
                if self.artifact_root is not None and self._database.exists():
                    follow_folder(self._database, self.artifact_root)
        return self._client

    @property
    def _shown_uri(self) -> str:
        return without_password(self.tracking_uri)

    @property
    def _database(self) -> Path:
        return Path(self.tracking_uri.removeprefix("sqlite:///"))

    def _alone(self) -> contextlib.AbstractContextManager[object]:
        """Hold the lock of a local database; a server has its own."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return contextlib.nullcontext()
        return sole_writer(self._database.parent, patience=SECONDS_TO_MAKE_TABLES)

    def _experiment_id(self) -> str:
        client = self._connect()
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = self.artifact_root.absolute().as_uri() if self.artifact_root else None
            with self._alone():
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    return str(
                        client.create_experiment(self.experiment, artifact_location=location)
                    )
        if found.lifecycle_stage == "deleted":
            raise CriticError(
                f"mlflow.experiment {self.experiment!r} was deleted in {self._shown_uri}; "
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
        # What a server does not take is kept and sent later, so there is nothing to wait for.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS_TO_ANSWER))
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        kinds = (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error)
        try:
            yield
        except (*kinds, DatabaseDown, DatabaseRefused) as error:
            kind = TrackingDown if self._may_answer_later(error) else CriticError
            reason = str(error).splitlines()[0]
            reason = reason.partition("(Caused by ")[2].rstrip(")") or reason
            raise kind(f"mlflow.tracking_uri {self._shown_uri!r}: {reason}") from error

    def _may_answer_later(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import DBAPIError

        is_down = not isinstance(error, MlflowException) or error.error_code in _DOWN
        if is_network_database(self.tracking_uri):
            kinds = (DatabaseDown, DBAPIError, MlflowException)
            return is_down and isinstance(error, kinds) and not is_mistake(error)
        if not self.tracking_uri.startswith(("http://", "https://")):
            return "database is locked" in str(error)
        return is_down


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted keys: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _to_metrics(
    history: Iterable[tuple[int, Mapping[str, float]]], at: float | None = None
) -> "list[Metric]":
    from mlflow.entities import Metric

    now = int((at or time.time()) * 1000)
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
