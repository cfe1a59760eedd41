"""Keeps what a tracking server does not take, and sends it when the server answers.

What waits is in <folder>/<run id>/
    events.jsonl    the calls to repeat, in order
    files/          the files they attach
    sent.json       the server's id of the run, and how many calls it has taken
A run that began without a server has the id `waiting-...` until then.
"""

import contextlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.errors import CriticError, FeatureStoreError
from featurize.io.files import read_object, sole_writer, write_json
from headtrain.tracking.database import without_password
from headtrain.tracking.server import (
    MAX_METRICS,
    SECONDS_BETWEEN_WRITES,
    MlflowTracker,
    TrackingDown,
)
from headtrain.tracking.tracker import History, Point, Status, Tracker

PREFIX = "waiting-"
"""Start of the id of a run that no server knows yet."""

logger = logging.getLogger(__name__)


class WaitingTracker(Tracker):
    """Logs to a server as long as it answers, and to a folder from then on."""

    def __init__(self, make_server: Callable[[], MlflowTracker], folder: Path) -> None:
        """`folder` keeps what waits for this server and others."""
        self._make_server = make_server
        self.server = make_server()
        self.folder = folder
        self._kept: _Kept | None = None  # of the current run, once the server is down
        self._points: list[tuple[int, dict[str, float]]] = []
        self._last_write = time.monotonic()
        self._lock = contextlib.ExitStack()

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start or continue a run; without a server it gets an id of its own."""
        try:
            known = self._resolve(run_id)
            begun = self.server.begin(config, known)
        except TrackingDown as error:
            begun = run_id or f"{PREFIX}{uuid.uuid4().hex}"
            self._wait(begun, error).add("begin", config=dict(config), run_id=begun)
        else:
            self._send_others()
        return begun

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of an optimizer step; they may be buffered."""
        if self._kept is None:
            self._try(lambda: self.server.log_metrics(metrics, step))
            return
        self._points.append((step, dict(metrics)))
        is_late = time.monotonic() - self._last_write > SECONDS_BETWEEN_WRITES
        if is_late or len(self._points) >= MAX_METRICS:
            self._keep_points(self._kept)

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Return step and metrics of everything that is buffered."""
        return self._points if self._kept is not None else self.server.waiting()

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, in the run's folder `folder`."""
        self._log("log_files", files=files, folder=folder)

    def log_child(self, name: str, parameters: Mapping[str, str], history: History) -> None:
        """Log a finished run as a child of this one; `history` is step and metrics."""
        self._log("log_child", name=name, parameters=dict(parameters), history=history)

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run; try to send what waits."""
        self._log("finish", status=status)
        if self._kept is not None:
            self._lock.close()
            with contextlib.suppress(TrackingDown):
                self._send(self._kept)

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it is gone."""
        try:
            self.server.log_evaluation(self._resolve(run_id), metrics, files)
        except TrackingDown as error:
            name = run_id or f"{PREFIX}{uuid.uuid4().hex}"
            kept = self._wait(name, error)
            kept.add("log_evaluation", run_id=name, metrics=dict(metrics), files=files)
            self._lock.close()
            self._kept = None
        else:
            self._send_others()

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Return the logged points of those metrics that a run has, in the order of the steps."""
        try:
            return self.server.history(self._resolve(run_id), names)
        except TrackingDown as error:
            logger.warning("%s; the curves of the training are left out", error)
            return {}

    def _log(self, call: str, **arguments: Any) -> None:
        """Make a call of the server, or keep it."""
        if self._kept is None:
            self._try(lambda: getattr(self.server, call)(**arguments))
        if self._kept is not None:
            self._keep_points(self._kept)
            self._kept.add(call, **arguments)

    def _try(self, call: Callable[[], None]) -> None:
        """Call the server; if it is down, keep what it has not taken, from now on."""
        try:
            call()
        except TrackingDown as error:
            assert self.server.run_id is not None, "begin comes first"
            kept = self._wait(self.server.run_id, error)
            kept.add("begin", config={}, run_id=self.server.run_id)
            self._points = self.server.waiting()

    def _keep_points(self, kept: "_Kept") -> None:
        if self._points:
            kept.add("log_history", history=self._points, at=time.time())
            self._points, self._last_write = [], time.monotonic()

    def _wait(self, run_id: str, error: TrackingDown) -> "_Kept":
        logger.warning(
            "%s; continuing without it: runs are kept in %s and sent by the next command that"
            " reaches it",
            error,
            self.folder,
        )
        self._kept = _Kept(self.folder / run_id, self.server)
        self._lock.enter_context(sole_writer(self._kept.folder))
        return self._kept

    def _resolve(self, run_id: str | None) -> str | None:
        """Return the server's id of a run, after sending what waits of it."""
        if run_id is None or not (self.folder / run_id).exists():
            return None if run_id is not None and run_id.startswith(PREFIX) else run_id
        kept = _Kept(self.folder / run_id, self.server)
        with contextlib.suppress(FeatureStoreError):  # another command is sending it
            self._send(kept)
        return kept.sent["run_id"] or (None if run_id.startswith(PREFIX) else run_id)

    def _send_others(self) -> None:
        """Send what waits of other runs for this server; a run that is active is left alone."""
        for folder in sorted(self.folder.glob("*/events.jsonl")):
            with contextlib.suppress(TrackingDown, FeatureStoreError):
                self._send(_Kept(folder.parent, self.server))

    def _send(self, kept: "_Kept") -> None:
        if not kept.has_events:
            return
        with sole_writer(kept.folder, patience=0):
            if kept.is_for(self.server):
                try:
                    kept.send(self._make_server())
                except TrackingDown:
                    raise
                except CriticError as error:
                    logger.warning("%s: cannot be sent (%s)", kept.folder, error)
                else:
                    logger.info("%s: sent to the server", kept.folder)


class _Kept:
    """The calls that wait for a server."""

    def __init__(self, folder: Path, server: MlflowTracker) -> None:
        self.folder = folder
        self._server = server
        self._events = folder / "events.jsonl"

    @property
    def has_events(self) -> bool:
        """Whether there is anything to send."""
        return self._events.exists()

    @property
    def sent(self) -> dict[str, Any]:
        """Return the server's id of the run, and how many calls it has taken."""
        path = self.folder / "sent.json"
        return read_object(path) if path.exists() else {"run_id": None, "calls": 0}

    def is_for(self, server: MlflowTracker) -> bool:
        """Whether this is the server that should have taken the calls."""
        return bool(self._read()[0]["server"] == _address(server))

    def add(self, call: str, *, files: Sequence[Path] = (), **arguments: Any) -> None:
        """Append a call; its files are copied."""
        if files:
            arguments["files"] = self._copy(files)
        event = {"server": _address(self._server), "call": call, "arguments": arguments}
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def send(self, server: MlflowTracker) -> None:
        """Repeat the calls that have not been sent, then delete them.

        Raises:
            TrackingDown: the server does not answer; the rest still waits.
        """
        sent = self.sent
        server.run_id = sent["run_id"]
        for number, event in enumerate(self._read()):
            arguments = dict(event["arguments"])
            if "run_id" in arguments:
                arguments["run_id"] = self._known(arguments["run_id"], sent["run_id"])
            if "files" in arguments:
                arguments["files"] = [self.folder / name for name in arguments["files"]]
            if number >= sent["calls"]:
                getattr(server, event["call"])(**arguments)
                sent = {"run_id": server.run_id, "calls": number + 1}
                write_json(self.folder / "sent.json", sent)
        self._events.unlink()
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        write_json(self.folder / "sent.json", {**sent, "calls": 0})

    def _known(self, named: str, sent: str | None) -> str | None:
        return sent or (None if named.startswith(PREFIX) else named)

    def _read(self) -> list[dict[str, Any]]:
        lines = self._events.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill tears the last

    def _copy(self, files: Sequence[Path]) -> list[str]:
        """Copy files in their folders relative to that of the first one."""
        target = Path("files") / uuid.uuid4().hex[:8]
        names = [str(target / file.relative_to(files[0].parent)) for file in files]
        for file, name in zip(files, names, strict=True):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, self.folder / name)
        return names


def _address(server: MlflowTracker) -> dict[str, Any]:
    # NOTE: the file stays on the disk until the server answers, so it must not hold a password.
    uri = without_password(server.tracking_uri)
    return {"tracking_uri": uri, "experiment": server.experiment}
