"""Trains a value head on cached features; a run that was killed goes on where it stood."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from featurize.store import FeatureStore
from headtrain.checkpoint import CheckpointError, HeadRecord, check_upload_uri, load_head
from headtrain.head import HeadModel
from headtrain.inputs import (
    InputColumns,
    LabelledSamples,
    choose_columns,
    read_head_inputs,
    read_labelled_samples,
)
from headtrain.loop import Trainer, TrainingError, mix_seed
from headtrain.objective import Objective, pair_objective, point_objective
from headtrain.pairs import PairError, PairPlan, sample_pairs
from headtrain.result import TrainResult
from headtrain.run import Run, TrainProgress
from headtrain.run_folder import RunFolder
from headtrain.settings import CheckpointSettings, DataSamplingSettings, TrainingSettings
from headtrain.tracking import Tracker
from headtrain.validation import read_validation

__all__ = ["TrainProgress", "TrainResult", "train_head"]

logger = logging.getLogger(__name__)


def train_head(
    *,
    train: FeatureStore,
    valid: FeatureStore | None,
    training: TrainingSettings,
    sampling: DataSamplingSettings,
    checkpoint: CheckpointSettings,
    device: torch.device,
    seed: int,
    run_config: dict[str, Any],
    checkpoint_dir: Path,
    tracker: Tracker,
    overwrite: bool = False,
    mixed_precision: bool = True,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, validate and keep a head in checkpoint_dir.

    A rerun of a finished run does nothing, one of a killed run goes on from its last checkpoint to
    the same weights (bitwise on a CPU). A folder that holds a run of other settings or data is
    refused. `overwrite` replaces whatever run is there.

    Raises:
        ValueError: of the subclass of whoever found the mistake; the message is one line.
    """
    _refuse_mismatch(train, valid, checkpoint)
    folder = RunFolder(checkpoint_dir)
    identity = _identity(train, valid, training, sampling, checkpoint, seed, mixed_precision)
    record = None if overwrite else folder.find(identity)
    if record is not None and record["result"] is not None:
        if _has_all_heads(record["result"], folder):
            return TrainResult.from_run(folder, record["result"], was_up_to_date=True)
        logger.warning("%s: the heads of the finished run are gone; training again", folder.path)
        record = None

    columns = choose_columns(train, training.features, training.likelihood)
    samples, plan = _plan_pairs(train, sampling)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        inputs = read_head_inputs(train, columns, samples=samples, device=device)
        torch.default_generator.manual_seed(mix_seed(seed, 0, 2))  # first weights, on the CPU
        model = HeadModel(columns.width, training.value_head_type, training.dropout)
        model.to(device).train()
        model.normaliser.fit(inputs.features)
        model.normaliser.normalise_(inputs.features)
        objective: Objective = (
            pair_objective(inputs, plan)
            if training.loss_type == "pairwise"
            else point_objective(inputs, plan, training.pointwise_loss)
        )
        trainer = Trainer(
            model,
            objective,
            training,
            device=device,
            seed=seed,
            mixed_precision=mixed_precision,
        )
        validation = (
            read_validation(
                valid, columns, limit=sampling.val_n_samples, seed=sampling.seed, device=device
            )
            if valid is not None
            else None
        )
        if record is None:  # only now: a mistake found above leaves the folder as it was
            record = folder.begin(identity)
        run_id = tracker.begin(run_config, record["tracking_run_id"])
        record = folder.update(record, tracking_run_id=run_id)
        run = Run(
            folder=folder,
            trainer=trainer,
            validation=validation,
            settings=checkpoint,
            log_interval=training.log_interval,
            head=_head_record(train, training, columns, run_config, run_id),
            tracker=tracker,
            progress=progress,
        )
        try:
            outcome = run.go()
        except BaseException as error:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.finish()
    result = {**_describe_pairs(plan, samples), **outcome, "tracking_run_id": run_id}
    folder.update(record, result=result)
    _warn_of_shared_problems(train, valid)
    return TrainResult.from_run(folder, result, resumed_from_step=run.resumed_from_step)


def _refuse_mismatch(
    train: FeatureStore, valid: FeatureStore | None, checkpoint: CheckpointSettings
) -> None:
    if valid is None and not checkpoint.save_final:
        raise TrainingError(
            "checkpoint.save_final is false and there is no validation set to choose the best head "
            "by, so nothing would be saved; set save_final or name a dataset.validation"
        )
    if valid and valid.manifest.recipe_fingerprint != train.manifest.recipe_fingerprint:
        raise TrainingError(
            f"{train.path} and {valid.path} hold features of different recipes "
            f"({train.manifest.recipe_fingerprint}, {valid.manifest.recipe_fingerprint}); "
            "featurize both with the same config"
        )
    if checkpoint.s3_upload and checkpoint.s3_uri:
        check_upload_uri(checkpoint.s3_uri)


def _identity(
    train: FeatureStore,
    valid: FeatureStore | None,
    training: TrainingSettings,
    sampling: DataSamplingSettings,
    checkpoint: CheckpointSettings,
    seed: int,
    mixed_precision: bool,
) -> dict[str, Any]:
    """Everything the resulting heads depend on, and nothing else."""
    trained = dataclasses.asdict(training)
    del trained["log_interval"]
    kept = ("save_checkpoint_every", "save_best", "save_final")
    return {
        "training": trained,
        "data_sampling": dataclasses.asdict(sampling),
        "checkpoint": {name: getattr(checkpoint, name) for name in kept},
        "runtime": {"seed": seed, "mixed_precision": mixed_precision},
        "train_features": train.manifest.fingerprint,
        "valid_features": valid.manifest.fingerprint if valid else None,
    }


def _warn_of_shared_problems(train: FeatureStore, valid: FeatureStore | None) -> None:
    """Says how many problems stand in both splits: accuracy on them is no accuracy on new ones."""
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


def _plan_pairs(
    store: FeatureStore, sampling: DataSamplingSettings
) -> tuple[LabelledSamples, PairPlan]:
    """Draw the pairs, and keep only the samples they touch: nothing else is read from the store."""
    samples = read_labelled_samples(store)
    try:
        plan = sample_pairs(
            samples.problems,
            samples.is_correct,
            sampling.pairwise.n_pairs,
            seed=sampling.seed,
            strategy=sampling.pairwise.strategy,
            max_pairs_per_problem=sampling.pairwise.max_pairs_per_problem,
        )
    except PairError as error:
        raise PairError(f"{store.path}: {error}") from error
    touched, places = np.unique(np.concatenate([plan.correct, plan.incorrect]), return_inverse=True)
    correct, incorrect = np.split(places.astype(np.int64), 2)
    return samples.take(touched), dataclasses.replace(plan, correct=correct, incorrect=incorrect)


def _describe_pairs(plan: PairPlan, samples: LabelledSamples) -> dict[str, Any]:
    """What the pairs are, and whether length alone would tell their samples apart."""
    longer = samples.output_tokens[plan.correct] - samples.output_tokens[plan.incorrect]  # [pairs]
    return {
        "num_pairs": len(plan.correct),
        "num_possible_pairs": plan.num_possible,
        "num_problems": plan.num_problems,
        "num_samples": len(samples),
        "num_unlabelled": samples.num_unlabelled,
        "mean_length_difference": float(longer.mean()),
        "longer_is_correct": float((longer > 0).mean() + (longer == 0).mean() / 2),
    }


def _head_record(
    store: FeatureStore,
    training: TrainingSettings,
    columns: InputColumns,
    run_config: dict[str, Any],
    run_id: str | None,
) -> HeadRecord:
    """What every head of the run has in common."""
    return HeadRecord(
        head_type=training.value_head_type,
        dropout=training.dropout,
        tensors=dict(zip(columns.tensors, columns.widths, strict=True)),
        likelihood=columns.likelihood,
        recipe_fingerprint=store.manifest.recipe_fingerprint,
        store_fingerprint=store.manifest.fingerprint,
        step=0,
        metrics={},
        config=run_config,
        tracking_run_id=run_id,
    )


def _has_all_heads(result: dict[str, Any], folder: RunFolder) -> bool:
    """Whether the heads a finished run left are still there and whole."""
    try:
        if result["has_best"]:
            load_head(folder.best)
        if result["has_final"]:
            load_head(folder.final)
    except (CheckpointError, OSError):
        return False
    return True
