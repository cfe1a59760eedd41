"""Logs runs to Weights & Biases, beside MLflow; only this module imports wandb."""

import importlib.util
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.errors import CriticError, one_line
from headtrain.tracking.tracker import History, Point, Status, Tracker

SECONDS_TO_ANSWER = 20
"""A server that does not answer in this time is down; training continues without it."""

SECONDS_TO_SEND = 120
"""The end of a run waits this long for what the server has not taken; wandb would wait for days."""

STEP = "optimizer_step"
"""The axis of all metrics. A resumed run logs some steps again, which W&B's own counter drops."""

logger = logging.getLogger(__name__)


class WandbTracker(Tracker):
    """Logs to a project of Weights & Biases what another tracker gets, under the same run ids.

    Its first failure ends logging there with a warning. Where the server is, whether it is asked at
    all (WANDB_MODE=offline) and the key are wandb's own environment variables.
    """

    def __init__(
        self,
        first: Tracker,
        project: str,
        folder: Path,
        *,
        run_name: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """`folder` gets wandb's own files, and in offline mode the runs.

        Raises:
            CriticError: wandb is not installed.
        """
        if importlib.util.find_spec("wandb") is None:
            raise CriticError(
                f"wandb.project {project!r}: wandb is not installed; pip install 'critic[wandb]'"
            )
        self.first = first
        self.project = project
        self.folder = folder
        self.run_name = run_name
        self.tags = list(tags)
        self._run: Any = None
        self._run_id: str | None = None
        self._is_down = False

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or continue it."""

        def begin() -> None:
            self._run = self._open(name=self.run_name, config=dict(config), id=self._run_id)

        self._run_id = self.first.begin(config, run_id)
        self._try(begin)
        return self._run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of an optimizer step; wandb sends them in the background."""
        self.first.log_metrics(metrics, step)
        self._try(lambda: self._run.log({**metrics, STEP: step}))

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Return what the other tracker has buffered."""
        return self.first.waiting()

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, in the run's folder `folder`."""
        self.first.log_files(files, folder)
        self._try(lambda: _save(self._run, files, folder))

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is buffered and end the run."""
        self.first.finish(status)
        if self._run is not None:
            self._try(lambda: self._run.finish(exit_code=int(status != "FINISHED")))
            self._run = None

    def log_child(self, name: str, parameters: Mapping[str, str], history: History) -> None:
        """Log a finished run in the group of this one; `history` is step and metrics."""

        def log() -> None:
            child = self._open(name=name, config=dict(parameters))
            for step, metrics in history:
                child.log({**metrics, STEP: step})
            child.finish()

        self.first.log_child(name, parameters, history)
        self._try(log)

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it has none."""

        def log() -> None:
            run = self._open(name=self.run_name, id=run_id)
            run.log({**metrics, STEP: 0})
            _save(run, files, "")
            run.finish()

        self.first.log_evaluation(run_id, metrics, files)
        self._try(log)

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Return the points that the other tracker has."""
        return self.first.history(run_id, names)

    def _open(self, **options: Any) -> Any:
        """Start or continue a run of W&B whose metrics are plotted over the optimizer step."""
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            group=self._run_id,
            tags=self.tags,
            dir=str(self.folder),
            resume="allow",
            settings=wandb.Settings(**_quiet_settings()),
            **options,
        )
        run.define_metric("*", step_metric=STEP)
        return run

    def _try(self, call: Callable[[], None]) -> None:
        """Call W&B unless it has failed before; warn if it fails now."""
        if self._is_down:
            return
        try:
            call()
        except Exception as error:  # wandb raises its own errors, those of HTTP and of its process
            self._is_down = True
            logger.warning(
                "Weights & Biases failed (%s); continuing without it: check WANDB_API_KEY and"
                " WANDB_BASE_URL, or set WANDB_MODE=offline",
                one_line(error),
            )


def _quiet_settings() -> dict[str, Any]:
    """Settings of wandb under which it records nothing but what it is given, and prints nothing."""
    # NOTE: by default it records the command line, where an override may hold a password.
    return {
        "silent": True,
        "console": "off",
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "disable_git": True,
        "disable_code": True,
        "init_timeout": SECONDS_TO_ANSWER,
        "login_timeout": SECONDS_TO_ANSWER,
        "finish_timeout": SECONDS_TO_SEND,
        "finish_timeout_raises": True,
        "reinit": "create_new",
    }


def _save(run: Any, files: Sequence[Path], folder: str) -> None:
    """Attach copies of files; they keep their folders relative to that of the first one.

    NOTE: of a file elsewhere wandb keeps a link. In offline mode `wandb sync` would then send what
    the next training has put in its place, and wandb prints a warning for each.
    """
    for file in files:
        copy = Path(run.dir) / folder / file.relative_to(files[0].parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        run.save(str(copy), base_path=run.dir, policy="now", glob=False)
