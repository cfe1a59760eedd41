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
from headtrain.features.inputs import HeadInputs
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
from headtrain.training.validation import HOLDOUT, measure_accuracy

logger = logging.getLogger(__name__)

TRAIN_SUBSET = "train_subset"
"""Train problems that are measured as validation is, without dropout."""


@dataclass(kw_only=True)
class HeadRun:
    """One start of a run, from its last checkpoint to its end."""

    folder: RunFolder
    trainer: Trainer  # of one head
    validations: Mapping[str, HeadInputs]
    train_subset: HeadInputs
    settings: CheckpointSettings
    record: HeadRecord
    decide: Callable[[TrainedHead], Decision]
    tracker: Tracker
    progress: Callable[[int, int], None] | None
    """Gets the steps done and their number."""
    state: RunState = field(default_factory=RunState)
    resumed_from_step: int | None = None
    train_metrics: dict[str, float] = field(default_factory=dict)
    accuracies: dict[str, PairwiseAccuracy] = field(default_factory=dict)
    """Of the train subset and the validations, at the last checkpoint."""
    started: float = field(default_factory=time.monotonic)

    @property
    def job(self) -> HeadJob:
        """The head in training."""
        return self.trainer.jobs[0]

    def train(self) -> dict[str, Any]:
        """Take the remaining steps; returns the outcome as run.json keeps it."""
        num_steps, interval = self.trainer.num_steps, self._checkpoint_interval()
        step = self._resume()
        while step < num_steps and not self._is_patience_over():
            self.trainer.take_step(step)
            step += 1
            if step == num_steps or step % interval == 0:
                self._report(step, self._read_means(step) | self._check(step))
                self._save(step, is_last=step == num_steps or self._is_patience_over())
            elif step % self.job.settings.log_interval == 0:
                self._report(step, self._read_means(step))
        self._publish()
        best = self.state.best
        return {
            "num_steps": step,
            "stopped_early": step < num_steps,
            "train_metrics": self.train_metrics,
            **self._train_accuracy(),
            "best": dataclasses.asdict(best) if best else None,
            "seconds": self._seconds(),
            "has_best": best is not None and self.settings.save_best,
            "has_final": self.settings.save_final,
        }

    def _train_accuracy(self) -> dict[str, float | None]:
        """The accuracy of the best head on the train subset; without a best one, of the last."""
        if (best := self.state.best) is None:
            return {**_prefixed("train", self.accuracies.get(TRAIN_SUBSET))}
        names = ("train_over_problems", "train_over_pairs")
        return {name: getattr(best, name) for name in names}

    def _checkpoint_interval(self) -> int:
        """Steps between two checkpoints; those of the run if it has one at its end alone."""
        every = self.settings.save_checkpoint_every
        if every is None:
            return self.trainer.num_steps
        return max(1, round(every * self.trainer.steps_per_epoch))

    def _read_means(self, step: int) -> dict[str, float]:
        (self.train_metrics,) = self.trainer.read_means()
        refuse_divergence(self.train_metrics, step, self.job.settings)
        return {f"train/{key}": value for key, value in self.train_metrics.items()}

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

    def _check(self, step: int) -> dict[str, float]:
        """Measure the head, and save it if it is the best so far; returns all accuracies."""
        sets = {TRAIN_SUBSET: self.train_subset, **self.validations}
        with refusing_overflow(step, self.job.settings):
            self.accuracies = {
                name: measure_accuracy(self.job.model, inputs) for name, inputs in sets.items()
            }
        if self.validations:
            self._select(step, by=next(iter(self.validations)))
        return _named(self.accuracies)

    def _select(self, step: int, by: str) -> None:
        state = dataclasses.replace(
            self.state,
            num_validations=self.state.num_validations + 1,
            num_since_best=self.state.num_since_best + 1,
        )
        # NOTE: best is written before the state that mentions it: a kill in between repeats this
        # step, which writes best again. In the other order best could be lost.
        over_problems = self.accuracies[by].over_problems
        if state.best is None or over_problems > state.best.over_problems:
            best = Best(
                step=step,
                **self.accuracies[by]._asdict(),
                **_prefixed("holdout", self.accuracies.get(HOLDOUT)),
                **_prefixed("train", self.accuracies[TRAIN_SUBSET]),
            )
            state = dataclasses.replace(state, best=best, num_since_best=0)
            if self.settings.save_best:
                selection = {"by": f"{by}/accuracy_over_problems", "of": state.num_validations}
                self._write(self.folder.best, step, selection)
        self.state = state

    def _save(self, step: int, *, is_last: bool) -> None:
        """Write a checkpoint to resume from, or at the end the final head."""
        if is_last:
            if self.settings.save_final:
                self._write(self.folder.final, step, {"by": "last step"})
            return
        self._write(self.folder.step_folder(step), step)
        state = dataclasses.replace(
            self.state, step=step, seconds=self._seconds(), unwritten=self.tracker.waiting()
        )
        self.folder.write_state(state, self.trainer.optimizer)
        self.folder.prune(step, self.settings.save_total_limit)

    def _write(self, folder: Path, step: int, selection: dict[str, Any] | None = None) -> None:
        """Write a head; one that was selected is also uploaded if the settings say so."""
        valid = {name: one for name, one in self.accuracies.items() if name in self.validations}
        record = dataclasses.replace(
            self.record, step=step, metrics=_named(valid), selection=selection or {}
        )
        write_head(folder, EnsembleModel([self.job.model]), record)
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
            self.progress(step, self.trainer.num_steps)

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started


def _named(accuracies: Mapping[str, PairwiseAccuracy]) -> dict[str, float]:
    return {
        f"{name}/accuracy_{key}": value
        for name, accuracy in accuracies.items()
        for key, value in accuracy._asdict().items()
    }


def _prefixed(name: str, accuracy: PairwiseAccuracy | None) -> dict[str, float]:
    values = accuracy._asdict() if accuracy else {}
    return {f"{name}_{key}": value for key, value in values.items()}


def refuse_divergence(means: dict[str, float], num_done: int, settings: TrainingSettings) -> None:
    """Stop a run whose loss or gradient is NaN or inf.

    Raises:
        CriticError: always in that case.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(means[name]):
            raise CriticError(f"{name} is {means[name]} by step {num_done}; {_remedy(settings)}")


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
            f"the head's values are no longer finite by step {num_done} ({error}); "
            f"{_remedy(settings)}"
        ) from error


def _remedy(settings: TrainingSettings) -> str:
    return (
        f"lower training.value_head_learning_rate {settings.value_head_learning_rate} or "
        "training.max_grad_norm"
    )
