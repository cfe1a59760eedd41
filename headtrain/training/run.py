"""One start of a training run: from where it stands to its end, with its checkpoints."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headtrain.head.checkpoint import (
    RECORD_FILE,
    WEIGHTS_FILE,
    HeadRecord,
    TrainedHead,
    load_head,
    upload_head,
    write_decision,
    write_head,
)
from headtrain.metrics.calibration import Decision
from headtrain.settings import CheckpointSettings
from headtrain.tracking import Tracker
from headtrain.training.loop import Trainer, refuse_divergence
from headtrain.training.run_folder import Best, RunFolder, RunState, has_head
from headtrain.training.validation import Validation

logger = logging.getLogger(__name__)

VALID, HOLDOUT = "valid", "holdout"
"""Names of the sets a head is validated on; the first there is chooses the best head."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """One line of a run's progress."""

    step: int
    num_steps: int
    metrics: dict[str, float]
    """Means since the last line; with valid/... where a validation has just run."""
    seconds: float


class Run:
    """One start of a run: from where it stands to its end."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        trainer: Trainer,  # of one head
        validations: Mapping[str, Validation],
        settings: CheckpointSettings,
        head: HeadRecord,
        decide: Callable[[TrainedHead], Decision],
        tracker: Tracker,
        progress: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.folder = folder
        self.trainer = trainer
        self.validations = validations
        self.settings = settings
        self.head = head
        self.decide = decide
        self.tracker = tracker
        self.progress = progress
        self.best: Best | None = None
        self.resumed_from_step: int | None = None
        self.train_metrics: dict[str, float] = {}
        self._num_validations = 0
        self._num_since_best = 0
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def go(self) -> dict[str, Any]:
        """Take the steps that are left; returns the outcome as run.json keeps it."""
        every = self.settings.save_checkpoint_every
        interval = max(1, round(every * self.trainer.steps_per_epoch)) if every else None
        training = self.trainer.jobs[0].settings
        step = self._resume()
        while step < self.trainer.num_steps and not self._is_patience_over():
            self.trainer.take_step(step)
            step += 1
            is_last = step == self.trainer.num_steps
            is_checkpoint = is_last or (interval is not None and step % interval == 0)
            if is_checkpoint or step % training.log_interval == 0:
                (metrics,) = self.trainer.read_means()
                refuse_divergence(metrics, step, training)
                self.train_metrics = metrics
                valid = self._validate(step) if is_checkpoint else {}
                self._report(step, {f"train/{key}": metrics[key] for key in metrics} | valid)
                if is_checkpoint:
                    self._save(step, valid, is_last=is_last or self._is_patience_over())
        self._publish()
        return {
            "num_steps": step,
            "stopped_early": step < self.trainer.num_steps,
            "train_metrics": self.train_metrics,
            "best": dataclasses.asdict(self.best) if self.best else None,
            "seconds": self._seconds(),
            "has_best": self.best is not None and self.settings.save_best,
            "has_final": self.settings.save_final,
        }

    def _resume(self) -> int:
        """Put the state of the last checkpoint back; returns the first step to take."""
        state = self.folder.latest_state()
        if state is None:
            return 0
        if state.best and self.settings.save_best and not has_head(self.folder.best):
            logger.warning("%s is gone; training again from the start", self.folder.best)
            return 0
        self.folder.restore(state, self.trainer.jobs[0].model, self.trainer.optimizer)
        self.best, self._seconds_before = state.best, state.seconds
        self._num_validations, self._num_since_best = state.num_validations, state.num_since_best
        self.resumed_from_step = state.step
        for step, metrics in state.unwritten:
            self.tracker.log_metrics(metrics, step)
        logger.info("going on from step %d of %d", state.step, self.trainer.num_steps)
        return state.step

    def _is_patience_over(self) -> bool:
        patience = self.trainer.jobs[0].settings.early_stopping_patience
        return patience is not None and self._num_since_best >= patience

    def _validate(self, num_done: int) -> dict[str, float]:
        """Judge the head, and keep it if it is the best so far."""
        if not self.validations:
            return {}
        model = self.trainer.jobs[0].model
        found = {name: one.measure(model) for name, one in self.validations.items()}
        metrics = {
            f"{name}/accuracy_{key}": value
            for name, accuracy in found.items()
            for key, value in accuracy._asdict().items()
        }
        judge, accuracy = next(iter(found.items()))
        holdout = found.get(HOLDOUT)
        self._num_validations += 1
        self._num_since_best += 1
        # NOTE: best is written before the state that speaks of it: a kill between the two repeats
        # this step, which writes best again; the other way round best could be lost.
        if self.best is None or accuracy.over_problems > self.best.over_problems:
            self._num_since_best = 0
            self.best = Best(
                step=num_done,
                **accuracy._asdict(),
                holdout_over_problems=holdout.over_problems if holdout else None,
                holdout_over_pairs=holdout.over_pairs if holdout else None,
            )
            if self.settings.save_best:
                chosen = {"by": f"{judge}/accuracy_over_problems", "of": self._num_validations}
                self._keep(self.folder.best, num_done, metrics, chosen)
        return metrics

    def _save(self, num_done: int, valid: dict[str, float], *, is_last: bool) -> None:
        """Write the checkpoint to go on from, or at the end the final head."""
        if is_last:
            if self.settings.save_final:
                self._keep(self.folder.final, num_done, valid, {"by": "last step"})
            return
        self._write(self.folder.step_folder(num_done), num_done, valid, {})
        state = RunState(
            step=num_done,
            seconds=self._seconds(),
            best=self.best,
            num_validations=self._num_validations,
            num_since_best=self._num_since_best,
            unwritten=self.tracker.waiting(),
        )
        self.folder.write_state(state, self.trainer.optimizer)
        self.folder.prune(num_done, self.settings.save_total_limit)

    def _write(
        self, folder: Path, step: int, metrics: dict[str, float], selection: dict[str, Any]
    ) -> None:
        record = dataclasses.replace(self.head, step=step, metrics=metrics, selection=selection)
        write_head(folder, self.trainer.jobs[0].model, record)

    def _keep(
        self, folder: Path, step: int, metrics: dict[str, float], selection: dict[str, Any]
    ) -> None:
        """Write a head to use, and copy it to where the settings say."""
        self._write(folder, step, metrics, selection)
        self._upload(folder)

    def _upload(self, folder: Path) -> None:
        if self.settings.s3_upload and self.settings.s3_uri:
            upload_head(folder, self.settings.s3_uri)

    def _publish(self) -> None:
        """Fit the kept heads' decisions, and hand them to the tracker.

        Never a torn head (a kill amid its writing): it is read back.
        """
        for folder in (self.folder.best, self.folder.final):
            if has_head(folder):
                write_decision(folder, self.decide(load_head(folder)))
                self._upload(folder)
                files = [folder / WEIGHTS_FILE, folder / RECORD_FILE]
                self.tracker.log_files(files, f"heads/{folder.name}")

    def _report(self, num_done: int, metrics: dict[str, float]) -> None:
        self.tracker.log_metrics(metrics, num_done)
        if self.progress is not None:
            self.progress(
                TrainProgress(
                    step=num_done,
                    num_steps=self.trainer.num_steps,
                    metrics=metrics,
                    seconds=self._seconds(),
                )
            )

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started
