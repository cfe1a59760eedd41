"""Trains a value head on cached features; a killed run resumes from its last checkpoint."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.compute as pc
import torch

from featurize.errors import CriticError
from featurize.io.files import sole_writer
from featurize.store import FeatureStore
from featurize.store.samples import SHARED_IDS_REMEDY, find_shared_ids
from headtrain.features.inputs import HeadInputs, choose_head_columns
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import HeadRecord, check_upload_uri, upload_head
from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.pairs.plan import TrainingData, pair_settings, read_training_data
from headtrain.settings import CheckpointSettings, DataSamplingSettings, TrainingSettings
from headtrain.tracking.tracker import Tracker, finishes
from headtrain.training.head_run import HeadRun
from headtrain.training.loop import HeadJob
from headtrain.training.objective import make_objective, read_train_inputs
from headtrain.training.resume import Replacement, RunFolder, has_head, trained_settings
from headtrain.training.stepper import make_trainer
from headtrain.training.validation import (
    HOLDOUT,
    VALID,
    fit_decision,
    read_validation,
    take_problems,
)

MOST_TRAIN_SAMPLES = 4096
"""Samples of the train subset."""

RUN_FILES = ("best", "final", "step-" + "[0-9]" * 8)
"""What a run writes besides run.json."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a finished run."""

    best: Path | None
    """Folder of the head with the highest validation accuracy."""
    final: Path | None
    """Folder of the head of the last step."""
    num_steps: int
    num_pairs: int
    num_possible_pairs: int
    num_problems: int
    """Problems with a pair."""
    num_samples: int
    """Distinct samples of the pairs."""
    num_unlabelled: int
    """Samples of the store without a label."""
    num_left_out: int
    """Labelled samples that data_sampling.pairwise excludes by difficulty or problem."""
    num_held_out: int
    """Labelled samples of the train problems held out."""
    mean_length_difference: float
    """Mean of correct minus incorrect output tokens over the pairs."""
    longer_is_correct: float
    """Pairwise accuracy of calling the longer output correct; 0.5 means no shortcut."""
    train_metrics: dict[str, float]
    """The last logged means."""
    best_step: int | None
    valid_over_problems: float | None
    """Pairwise accuracy of the best head, mean over problems."""
    valid_over_pairs: float | None
    holdout_over_problems: float | None
    """The same on train problems held out; far above valid it shows a shift between the splits."""
    holdout_over_pairs: float | None
    stopped_early: bool
    seconds: float
    """Training time over all starts of the run."""
    tracking_run_id: str | None
    train_over_problems: float | None = None
    """Accuracy on a subset of the train problems without dropout, of the best head if there is one,
    else of the last; None for a run of an older version."""
    train_over_pairs: float | None = None
    num_equal_pairs: int = 0
    """Pairs left out because both sides have the same tokens."""
    num_shared_ids: int = 0
    """Problem ids with several statements, which are not paired with one another."""
    was_up_to_date: bool = False
    """Whether the run had finished before, so nothing was done."""
    resumed_from_step: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return the rows of the table shown at the end; what was left out only if anything was."""
        return {
            "pairs": f"{self.num_pairs:,} of {self.num_possible_pairs:,} possible",
            "problems": self.num_problems,
            "samples": self.num_samples,
            **self._left_out(),
            "correct longer by, tokens": self.mean_length_difference,
            "longer is correct, of the pairs": self.longer_is_correct,
            "steps": f"{self.num_steps:,}{', stopped early' if self.stopped_early else ''}",
            **({} if self.best_step is None else {"best step": self.best_step}),
            **self._accuracies(),
            "seconds": f"{self.seconds:,.1f}",
        }

    def _accuracies(self) -> dict[str, float]:
        """Return the rows of the accuracies, all without dropout, so that they compare."""
        rows = {
            "train accuracy over problems": self.train_over_problems,
            "train accuracy over pairs": self.train_over_pairs,
            "held-out train accuracy over problems": self.holdout_over_problems,
            "held-out train accuracy over pairs": self.holdout_over_pairs,
            "valid accuracy over problems": self.valid_over_problems,
            "valid accuracy over pairs": self.valid_over_pairs,
        }
        return {name: value for name, value in rows.items() if value is not None}

    def _left_out(self) -> dict[str, int]:
        """Return the rows of what few datasets have."""
        rows = {
            "samples without a label": self.num_unlabelled,
            "samples held out": self.num_held_out,
            "samples not allowed in pairs": self.num_left_out,
            "pairs of equal tokens, left out": self.num_equal_pairs,
            "problem ids with several statements": self.num_shared_ids,
        }
        return {name: number for name, number in rows.items() if number}

    @classmethod
    def find(cls, folder: RunFolder, identity: Mapping[str, Any]) -> Self | None:
        """Read the result of a run if it has finished; None if it has not.

        Raises:
            CheckpointError: the folder holds another run.
        """
        result = folder.finished(identity)
        return None if result is None else cls.from_run(folder, result, was_up_to_date=True)

    @classmethod
    def from_run(cls, folder: RunFolder, result: Mapping[str, Any], **how: Any) -> Self:
        """Convert the result in run.json; `how` sets was_up_to_date or resumed_from_step."""
        fields = dict(result)
        best = fields.pop("best") or {}
        return cls(
            best=folder.best if fields.pop("has_best") else None,
            final=folder.final if fields.pop("has_final") else None,
            best_step=best.get("step"),
            valid_over_problems=best.get("over_problems"),
            valid_over_pairs=best.get("over_pairs"),
            holdout_over_problems=best.get("holdout_over_problems"),
            holdout_over_pairs=best.get("holdout_over_pairs"),
            **how,
            **fields,
        )


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
    progress: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train, validate and save a head in checkpoint_dir.

    Rerunning a finished run does nothing; rerunning a killed one resumes from its last checkpoint
    and gives the same weights (bitwise on a CPU). `overwrite` replaces any earlier run. Features
    that do not fit into memory are mapped from a file in cache_dir (default: checkpoint_dir).
    `strict` refuses problem ids that several statements share; `progress` gets the steps done and
    their number.

    Raises:
        CriticError: the stores or settings are wrong, checkpoint_dir holds another run, another
            run is training there, or the training diverged.
    """
    refuse_mismatch(train, valid)
    _refuse_useless(valid, checkpoint, train_holdout)
    if strict:
        _refuse_shared_ids(train, valid)
    folder = RunFolder(checkpoint_dir)
    runtime = {"seed": seed, "mixed_precision": mixed_precision}
    identity = _identity(train, valid, training, sampling, checkpoint, runtime, train_holdout)
    replacement = Replacement(checkpoint_dir, RUN_FILES)
    upload_uri = checkpoint.s3_uri if checkpoint.s3_upload else None
    replacement.complete_interrupted()
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
        trainer = make_trainer([job], device=device, mixed_precision=mixed_precision)
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
        run = HeadRun(
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
        with finishes(tracker):
            outcome = run.train()
        result = {**data.describe(), **outcome, "tracking_run_id": run_id}
        target.file.update(run_file, result=result)
        if is_replacing:
            replacement.finish()
            _upload_heads(folder, upload_uri)
    _warn_of_shared_problems(train, valid)
    return TrainResult.from_run(folder, result, resumed_from_step=run.resumed_from_step)


def _identity(
    train: FeatureStore,
    valid: FeatureStore | None,
    training: TrainingSettings,
    sampling: DataSamplingSettings,
    checkpoint: CheckpointSettings,
    runtime: dict[str, Any],
    train_holdout: float,
) -> dict[str, Any]:
    """The features and settings that decide a run's heads and which of them are kept."""
    kept = ("save_checkpoint_every", "save_best", "save_final")
    return {
        "training": trained_settings(training),
        "data_sampling": dataclasses.asdict(sampling) | pair_settings(sampling),
        "checkpoint": {name: getattr(checkpoint, name) for name in kept},
        "runtime": runtime,
        "train_features": train.manifest.fingerprint,
        "valid_features": valid.manifest.fingerprint if valid else None,
        "evaluation": {"train_holdout": train_holdout},
    }


def _read_job(
    train: FeatureStore,
    data: TrainingData,
    spec: HeadSpec,
    training: TrainingSettings,
    seed: int,
    memory: FeatureMemory,
) -> tuple[HeadJob, HeadInputs]:
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
) -> dict[str, HeadInputs]:
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
