"""The run of one head: steps, validations and checkpoints, from the last checkpoint to the end."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurize.errors import CriticError
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
from headtrain.head.model import EnsembleModel
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import NotFiniteError, PairwiseAccuracy
from headtrain.settings import CheckpointSettings, TrainingSettings
from headtrain.tracking.tracker import Tracker
from headtrain.training.loop import HeadJob, Trainer
from headtrain.training.resume import Best, RunFolder, RunState, has_head
from headtrain.training.validation import HOLDOUT, Validation

logger = logging.getLogger(__name__)

TRAIN_SUBSET = "train_subset"
"""Train problems that are measured as validation is, without dropout."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A progress report of a run."""

    step: int
    num_steps: int
    metrics: dict[str, float]
    """Means since the last report; valid/... after a validation."""
    seconds: float


@dataclass(kw_only=True)
class HeadRun:
    """One start of a run, from its last checkpoint to its end."""

    folder: RunFolder
    trainer: Trainer  # of one head
    validations: Mapping[str, Validation]
    train_subset: Validation
    settings: CheckpointSettings
    record: HeadRecord
    decide: Callable[[TrainedHead], Decision]
    tracker: Tracker
    progress: Callable[[TrainProgress], None] | None
    state: RunState = field(default_factory=RunState)
    resumed_from_step: int | None = None
    train_metrics: dict[str, float] = field(default_factory=dict)
    train_accuracy: PairwiseAccuracy | None = None
    """Of the train subset, at the last checkpoint."""
    started: float = field(default_factory=time.monotonic)

    @property
    def job(self) -> HeadJob:
        """The head in training."""
        return self.trainer.jobs[0]

    def train(self) -> dict[str, Any]:
        """Take the remaining steps; returns the outcome as run.json keeps it."""
        every = self.settings.save_checkpoint_every
        interval = max(1, round(every * self.trainer.steps_per_epoch)) if every else None
        training = self.job.settings
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
                with refusing_overflow(step, training):
                    measured = self._measure_train() if is_checkpoint else {}
                    valid = self._validate(step) if is_checkpoint else {}
                means = {f"train/{key}": metrics[key] for key in metrics}
                self._report(step, means | measured | valid)
                if is_checkpoint:
                    self._save(step, valid, is_last=is_last or self._is_patience_over())
        self._publish()
        best = self.state.best
        return {
            "num_steps": step,
            "stopped_early": step < self.trainer.num_steps,
            "train_metrics": self.train_metrics,
            **self._train_outcome(),
            "best": dataclasses.asdict(best) if best else None,
            "seconds": self._seconds(),
            "has_best": best is not None and self.settings.save_best,
            "has_final": self.settings.save_final,
        }

    def _resume(self) -> int:
        """Restore the last checkpoint; returns the first step to take."""
        state = self.folder.latest_state()
        if state is None:
            return 0
        if state.best and self.settings.save_best and not has_head(self.folder.best):
            logger.warning("%s is missing; training again from the start", self.folder.best)
            return 0
        self.folder.restore(state, self.job.model, self.trainer.optimizer)
        self.state, self.resumed_from_step = state, state.step
        for step, metrics in state.unwritten:
            self.tracker.log_metrics(metrics, step)
        logger.info("resuming from step %d of %d", state.step, self.trainer.num_steps)
        return state.step

    def _is_patience_over(self) -> bool:
        patience = self.job.settings.early_stopping_patience
        return patience is not None and self.state.num_since_best >= patience

    def _measure_train(self) -> dict[str, float]:
        """Measure the train subset; it selects nothing."""
        self.train_accuracy = self.train_subset.measure(self.job.model)
        return _named(TRAIN_SUBSET, self.train_accuracy)

    def _train_outcome(self) -> dict[str, float | None]:
        """The accuracy of the best head on the train subset, of the last one without a best."""
        if self.state.best is not None:
            best = self.state.best
            return {
                "train_over_problems": best.train_over_problems,
                "train_over_pairs": best.train_over_pairs,
            }
        last = self.train_accuracy
        return {
            "train_over_problems": last.over_problems if last else None,
            "train_over_pairs": last.over_pairs if last else None,
        }

    def _validate(self, step: int) -> dict[str, float]:
        """Measure the head, and save it if it is the best so far."""
        if not self.validations:
            return {}
        found = {name: one.measure(self.job.model) for name, one in self.validations.items()}
        metrics: dict[str, float] = {}
        for name, one in found.items():
            metrics |= _named(name, one)
        by, accuracy = next(iter(found.items()))
        state = dataclasses.replace(
            self.state,
            num_validations=self.state.num_validations + 1,
            num_since_best=self.state.num_since_best + 1,
        )
        # NOTE: best is written before the state that mentions it: a kill in between repeats this
        # step, which writes best again. In the other order best could be lost.
        if state.best is None or accuracy.over_problems > state.best.over_problems:
            best = _best(step, accuracy, found.get(HOLDOUT), self.train_accuracy)
            state = dataclasses.replace(state, best=best, num_since_best=0)
            if self.settings.save_best:
                selection = {"by": f"{by}/accuracy_over_problems", "of": state.num_validations}
                self._write(self.folder.best, step, metrics, selection)
        self.state = state
        return metrics

    def _save(self, step: int, valid: dict[str, float], *, is_last: bool) -> None:
        """Write a checkpoint to resume from, or at the end the final head."""
        if is_last:
            if self.settings.save_final:
                self._write(self.folder.final, step, valid, {"by": "last step"})
            return
        self._write(self.folder.step_folder(step), step, valid)
        state = dataclasses.replace(
            self.state, step=step, seconds=self._seconds(), unwritten=self.tracker.waiting()
        )
        self.folder.write_state(state, self.trainer.optimizer)
        self.folder.prune(step, self.settings.save_total_limit)

    def _write(
        self,
        folder: Path,
        step: int,
        metrics: dict[str, float],
        selection: dict[str, Any] | None = None,
    ) -> None:
        """Write a head; one that was selected is also uploaded if the settings say so."""
        fields: dict[str, Any] = {"step": step, "metrics": metrics, "selection": selection or {}}
        model = EnsembleModel([self.job.model])
        write_head(folder, model, dataclasses.replace(self.record, **fields))
        if selection:
            self._upload(folder)

    def _upload(self, folder: Path) -> None:
        if self.settings.s3_upload and self.settings.s3_uri:
            upload_head(folder, self.settings.s3_uri)

    def _publish(self) -> None:
        """Fit the decisions of best and final, and log their files.

        Reading them back makes sure that a head torn by a kill is never published.
        """
        for folder in (self.folder.best, self.folder.final):
            if has_head(folder):
                write_decision(folder, self.decide(load_head(folder)))
                self._upload(folder)
                files = [folder / WEIGHTS_FILE, folder / RECORD_FILE]
                self.tracker.log_files(files, f"heads/{folder.name}")

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        self.tracker.log_metrics(metrics, step)
        if self.progress is not None:
            self.progress(
                TrainProgress(
                    step=step,
                    num_steps=self.trainer.num_steps,
                    metrics=metrics,
                    seconds=self._seconds(),
                )
            )

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started


def _named(name: str, accuracy: PairwiseAccuracy) -> dict[str, float]:
    return {f"{name}/accuracy_{key}": value for key, value in accuracy._asdict().items()}


def _best(
    step: int,
    accuracy: PairwiseAccuracy,
    holdout: PairwiseAccuracy | None,
    train: PairwiseAccuracy | None,
) -> Best:
    return Best(
        step=step,
        **accuracy._asdict(),
        holdout_over_problems=holdout.over_problems if holdout else None,
        holdout_over_pairs=holdout.over_pairs if holdout else None,
        train_over_problems=train.over_problems if train else None,
        train_over_pairs=train.over_pairs if train else None,
    )


def refuse_divergence(means: dict[str, float], num_done: int, settings: TrainingSettings) -> None:
    """Stop a run whose loss or gradient is NaN or inf.

    Raises:
        CriticError: always in that case.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(means[name]):
            raise CriticError(
                f"{name} is {means[name]} by step {num_done}; lower "
                f"training.value_head_learning_rate {settings.value_head_learning_rate} "
                "or training.max_grad_norm"
            )


@contextlib.contextmanager
def refusing_overflow(num_done: int, settings: TrainingSettings) -> Iterator[None]:
    """Say what to change where the values of a head have become NaN or inf.

    Raises:
        CriticError: always in that case.
    """
    try:
        yield
    except NotFiniteError as error:
        raise CriticError(
            f"the head's values are no longer finite by step {num_done} ({error}); lower "
            f"training.value_head_learning_rate {settings.value_head_learning_rate} "
            "or training.max_grad_norm"
        ) from error
