"""Trains a value head on cached features; a killed run resumes from its last checkpoint."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch

from featurize.errors import CriticError
from featurize.store import SHARED_IDS_REMEDY, FeatureStore, find_shared_ids, sole_writer
from headtrain.features.inputs import choose_head_columns
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import (
    RECORD_FILE,
    WEIGHTS_FILE,
    HeadRecord,
    TrainedHead,
    check_upload_uri,
    load_head,
    upload_head,
    write_decision,
    write_head,
)
from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import PairwiseAccuracy
from headtrain.pairs.plan import TrainingData, pair_settings, read_training_data
from headtrain.settings import CheckpointSettings, DataSamplingSettings, TrainingSettings
from headtrain.tracking.tracker import Tracker
from headtrain.training.inputs import read_train_inputs
from headtrain.training.loop import HeadJob, Trainer, refuse_divergence
from headtrain.training.objective import make_objective
from headtrain.training.replace import Replacement
from headtrain.training.result import TrainResult
from headtrain.training.resume import Best, RunFolder, RunState, has_head, trained_settings
from headtrain.training.validation import (
    Validation,
    fit_decision,
    read_validation,
    take_problems,
)

VALID, HOLDOUT = "valid", "holdout"
"""Names of the sets a head is validated on."""

TRAIN_SUBSET = "train_subset"
"""Train problems that are measured as validation is, without dropout."""

MOST_TRAIN_SAMPLES = 4096
"""Samples of the train subset."""

RUN_FILES = ("best", "final", "step-" + "[0-9]" * 8)
"""What a run writes besides run.json."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A progress report of a run."""

    step: int
    num_steps: int
    metrics: dict[str, float]
    """Means since the last report; valid/... after a validation."""
    seconds: float


def train_head(
    *,
    train: FeatureStore,
    valid: FeatureStore | None,
    training: TrainingSettings,
    sampling: DataSamplingSettings,
    checkpoint: CheckpointSettings,
    device: torch.device,
    seed: int,
    train_holdout: float = 0.0,
    run_config: dict[str, Any],
    checkpoint_dir: Path,
    tracker: Tracker,
    cache_dir: Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
    mixed_precision: bool = True,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, validate and save a head in checkpoint_dir.

    Rerunning a finished run does nothing; rerunning a killed one resumes from its last checkpoint
    and gives the same weights (bitwise on a CPU). `overwrite` replaces any earlier run. Features
    that do not fit into memory are mapped from a file in cache_dir (default: checkpoint_dir).
    `strict` refuses problem ids that several statements share.

    Raises:
        CriticError: the stores or settings are wrong, checkpoint_dir holds another run, another
            run is training there, or the training diverged.
    """
    refuse_mismatch(train, valid)
    _refuse_useless(valid, checkpoint, train_holdout)
    if strict:
        _refuse_shared_ids(train, valid)
    folder = RunFolder(checkpoint_dir)
    kept = ("save_checkpoint_every", "save_best", "save_final")
    identity = {
        "training": trained_settings(training),
        "data_sampling": dataclasses.asdict(sampling) | pair_settings(sampling),
        "checkpoint": {name: getattr(checkpoint, name) for name in kept},
        "runtime": {"seed": seed, "mixed_precision": mixed_precision},
        "train_features": train.manifest.fingerprint,
        "valid_features": valid.manifest.fingerprint if valid else None,
        "evaluation": {"train_holdout": train_holdout},
    }
    replacement = Replacement(checkpoint_dir, RUN_FILES)
    upload_uri = checkpoint.s3_uri if checkpoint.s3_upload else None
    if replacement.is_interrupted:
        with sole_writer(checkpoint_dir):
            replacement.complete()
    if not overwrite and (finished := TrainResult.find(folder, identity)) is not None:
        return finished
    spec = HeadSpec.of(choose_head_columns(train, training), training)
    data = read_training_data(train, sampling, train_holdout=train_holdout)
    memory = FeatureMemory(
        device=device, folder=cache_dir or checkpoint_dir, most_gb=training.max_feature_memory_gb
    )
    with sole_writer(checkpoint_dir):  # only now: an error above leaves the folder as it was
        if not overwrite and (finished := TrainResult.find(folder, identity)) is not None:
            return finished  # another process trained this run while this one waited for the lock
        job, train_subset = _read_job(train, data, spec, training, seed, memory)
        trainer = Trainer([job], device=device, mixed_precision=mixed_precision)
        validations = _read_validations(train, valid, data, sampling, job.model, memory)
        logger.info("%s", memory.describe())
        previous = None if overwrite else folder.unfinished(identity)
        run_id = tracker.begin(run_config, previous["tracking_run_id"] if previous else None)
        # NOTE: nothing is deleted before the new run is complete.
        is_replacing = previous is None and folder.is_used
        target = RunFolder(replacement.begin()) if is_replacing else folder
        run_file = target.file.update(previous or target.begin(identity), tracking_run_id=run_id)
        if is_replacing:
            checkpoint = dataclasses.replace(checkpoint, s3_upload=False)
        run = _Run(
            folder=target,
            trainer=trainer,
            validations=validations,
            train_subset=train_subset,
            settings=checkpoint,
            record=HeadRecord.for_run(spec, train, data, config=run_config, tracking_run_id=run_id),
            decide=functools.partial(fit_decision, train),
            tracker=tracker,
            progress=progress,
        )
        try:
            outcome = run.train()
        except BaseException as error:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.finish()
        result = {**data.describe(), **outcome, "tracking_run_id": run_id}
        target.file.update(run_file, result=result)
        if is_replacing:
            replacement.finish()
            _upload_heads(folder, upload_uri)
    _warn_of_shared_problems(train, valid)
    return TrainResult.from_run(folder, result, resumed_from_step=run.resumed_from_step)


def _read_job(
    train: FeatureStore,
    data: TrainingData,
    spec: HeadSpec,
    training: TrainingSettings,
    seed: int,
    memory: FeatureMemory,
) -> tuple[HeadJob, Validation]:
    """Read and normalise the train features, and make a new head; also the train subset."""
    model = HeadModel.from_seed(spec, seed).to(memory.device).train()
    inputs = read_train_inputs(
        train, data.samples, spec, training, normaliser=model.normaliser, memory=memory
    )
    objective = make_objective(inputs, data.plan, training)
    job = HeadJob(model=model, objective=objective, settings=training, seed=seed)
    return job, take_problems(inputs, MOST_TRAIN_SAMPLES, seed)


def _read_validations(
    train: FeatureStore,
    valid: FeatureStore | None,
    data: TrainingData,
    sampling: DataSamplingSettings,
    model: HeadModel,
    memory: FeatureMemory,
) -> dict[str, Validation]:
    """Read the sets the head is validated on, the one that selects the best head first."""
    read = functools.partial(
        read_validation,
        columns=model.spec.columns,
        limit=sampling.val_n_samples,
        seed=sampling.seed,
        normaliser=model.normaliser,
        memory=memory,
    )
    validations = {VALID: read(valid)} if valid is not None else {}
    if data.holdout is not None:
        validations[HOLDOUT] = read(train, samples=data.held_out)
    return validations


def _upload_heads(folder: RunFolder, uri: str | None) -> None:
    for head in (folder.best, folder.final):
        if uri and has_head(head):
            upload_head(head, uri)


def refuse_mismatch(train: FeatureStore, valid: FeatureStore | None) -> None:
    """Check that two stores hold comparable features.

    Raises:
        CriticError: their recipes differ.
    """
    if valid and valid.manifest.recipe_fingerprint != train.manifest.recipe_fingerprint:
        raise CriticError(
            f"{train.path} and {valid.path} hold features of different recipes "
            f"({train.manifest.recipe_fingerprint}, {valid.manifest.recipe_fingerprint}); "
            "featurize both with the same config"
        )


def _refuse_useless(
    valid: FeatureStore | None, checkpoint: CheckpointSettings, train_holdout: float
) -> None:
    if valid is None and not train_holdout and not checkpoint.save_final:
        raise CriticError(
            "checkpoint.save_final is false and there is no validation set to choose the best head "
            "by, so nothing would be saved; set save_final or name a dataset.validation"
        )
    if checkpoint.s3_upload and checkpoint.s3_uri:
        check_upload_uri(checkpoint.s3_uri)


def _refuse_shared_ids(*stores: FeatureStore | None) -> None:
    for store in stores:
        if store is not None and (shared := find_shared_ids(store.samples)) is not None:
            raise CriticError(f"{store.path}: {shared}; {SHARED_IDS_REMEDY}")


def _warn_of_shared_problems(train: FeatureStore, valid: FeatureStore | None) -> None:
    """Warn of problems in both splits: accuracy on them does not measure generalisation."""
    if valid is None:
        return
    shared = pc.is_in(
        valid.samples["problem_id"].unique(), value_set=train.samples["problem_id"].unique()
    )
    if count := pc.sum(shared).as_py():
        logger.warning(
            "%d of the %d validation problems are train problems too: the accuracy on them says"
            " nothing about new ones",
            count,
            len(shared),
        )


@dataclass(kw_only=True)
class _Run:
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
        write_head(folder, self.job.model, dataclasses.replace(self.record, **fields))
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
