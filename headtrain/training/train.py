"""Trains a value head on cached features; a run that was killed goes on where it stood."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch

from featurize.errors import CriticError
from featurize.store import FeatureStore, sole_writer
from headtrain.features.inputs import InputColumns, choose_columns, read_head_inputs
from headtrain.features.memory import FeatureMemory
from headtrain.head.checkpoint import HeadRecord, check_upload_uri
from headtrain.head.model import FeatureNormaliser, HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.pairs.pair_plan import pair_settings, read_excluded_problems
from headtrain.pairs.training_data import TrainingData, read_training_data
from headtrain.settings import CheckpointSettings, DataSamplingSettings, TrainingSettings
from headtrain.tracking import Tracker
from headtrain.training.decision import fit_decision
from headtrain.training.loop import HeadJob, Trainer
from headtrain.training.objective import make_objective
from headtrain.training.result import TrainResult
from headtrain.training.run import HOLDOUT, VALID, Run, TrainProgress
from headtrain.training.run_folder import RunFolder
from headtrain.training.seeds import mix_seed
from headtrain.training.validation import read_validation

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
    train_holdout: float = 0.0,
    run_config: dict[str, Any],
    checkpoint_dir: Path,
    tracker: Tracker,
    cache_dir: Path | None = None,
    overwrite: bool = False,
    mixed_precision: bool = True,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, validate and keep a head in checkpoint_dir.

    A rerun of a finished run does nothing, one of a killed run goes on from its last checkpoint to
    the same weights (bitwise on a CPU). A folder that holds a run of other settings or data, or in
    which another run trains, is refused. `overwrite` replaces whatever run is there. Features that
    do not fit into memory lie in a file in cache_dir (default: checkpoint_dir) meanwhile.

    Raises:
        ValueError: of the subclass of whoever found the mistake; the message is one line.
    """
    refuse_mismatch(train, valid)
    _refuse_useless(valid, checkpoint, train_holdout)
    folder = RunFolder(checkpoint_dir)
    excluded = read_excluded_problems(sampling.pairwise)
    identity = _identity(train, valid, training, sampling, checkpoint, seed, mixed_precision)
    identity["data_sampling"] |= pair_settings(sampling, excluded)
    identity["evaluation"] = {"train_holdout": train_holdout}
    if not overwrite and (result := folder.finished(identity)) is not None:
        return TrainResult.from_run(folder, result, was_up_to_date=True)
    columns = choose_columns(train, training.features, training.likelihood)
    data = read_training_data(train, sampling, excluded=excluded, train_holdout=train_holdout)
    memory = FeatureMemory(
        device=device,
        folder=cache_dir or checkpoint_dir,
        most_gb=training.max_feature_memory_gb,
    )
    devices = [device] if device.type == "cuda" else []
    # The lock comes now: a mistake found above leaves the folder as it was.
    with sole_writer(checkpoint_dir), torch.random.fork_rng(devices=devices):
        if not overwrite and (result := folder.finished(identity)) is not None:
            # The run that held the lock was this one.
            return TrainResult.from_run(folder, result, was_up_to_date=True)
        inputs = read_head_inputs(train, columns, samples=data.samples, memory=memory)
        model = make_model(columns, training, seed).to(device).train()
        fit_normaliser(model.normaliser, inputs.features, columns, training)
        model.normaliser.normalise_(inputs.features)
        job = HeadJob(
            model=model,
            objective=make_objective(inputs, data.plan, training),
            settings=training,
            seed=seed,
        )
        trainer = Trainer([job], device=device, mixed_precision=mixed_precision)
        read = functools.partial(
            read_validation,
            columns=columns,
            limit=sampling.val_n_samples,
            seed=sampling.seed,
            device=device,
            normaliser=model.normaliser,
            memory=memory,
        )
        validations = {VALID: read(valid)} if valid is not None else {}
        if data.holdout is not None:
            validations[HOLDOUT] = read(train, samples=data.held_out)
        logger.info("%s", memory.describe())
        record = folder.begin(identity) if overwrite else folder.go_on(identity)
        run_id = tracker.begin(run_config, record["tracking_run_id"])
        record = folder.file.update(record, tracking_run_id=run_id)
        run = Run(
            folder=folder,
            trainer=trainer,
            validations=validations,
            settings=checkpoint,
            head=head_record(train, training, columns, data, run_config, run_id),
            decide=functools.partial(fit_decision, train),
            tracker=tracker,
            progress=progress,
        )
        try:
            outcome = run.go()
        except BaseException as error:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.finish()
        result = {**data.describe(), **outcome, "tracking_run_id": run_id}
        folder.file.update(record, result=result)
    _warn_of_shared_problems(train, valid)
    return TrainResult.from_run(folder, result, resumed_from_step=run.resumed_from_step)


def refuse_mismatch(train: FeatureStore, valid: FeatureStore | None) -> None:
    """Stores whose features cannot be compared are refused."""
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
    kept = ("save_checkpoint_every", "save_best", "save_final")
    return {
        "training": trained_settings(training),
        "data_sampling": dataclasses.asdict(sampling),
        "checkpoint": {name: getattr(checkpoint, name) for name in kept},
        "runtime": {"seed": seed, "mixed_precision": mixed_precision},
        "train_features": train.manifest.fingerprint,
        "valid_features": valid.manifest.fingerprint if valid else None,
    }


_CAME_LATER = {"value_head_width": None, "normaliser": "standardize"}
"""Settings of later versions, and how heads were made before: a run of then is still the same."""


def trained_settings(training: TrainingSettings) -> dict[str, Any]:
    """The settings that decide what a head becomes."""
    fields = dataclasses.asdict(training)
    for name in ("log_interval", "max_feature_memory_gb"):
        del fields[name]
    return {
        name: value
        for name, value in fields.items()
        if name not in _CAME_LATER or value != _CAME_LATER[name]
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


def make_model(columns: InputColumns, training: TrainingSettings, seed: int) -> HeadModel:
    """A head with the first weights of this seed, drawn on the CPU."""
    torch.default_generator.manual_seed(mix_seed(seed, 0, 2))
    return HeadSpec.of(columns, training).make_model()


def fit_normaliser(
    normaliser: FeatureNormaliser,
    features: torch.Tensor,
    columns: InputColumns,
    training: TrainingSettings,
) -> None:
    """Fit it to the train features as the settings say; with `none` it stays as it is."""
    if training.normaliser != "none":
        is_by_tensor = training.normaliser == "tensor"
        normaliser.fit(features, columns.scaled_alike if is_by_tensor else None)


def head_record(
    store: FeatureStore,
    training: TrainingSettings,
    columns: InputColumns,
    data: TrainingData,
    run_config: dict[str, Any],
    run_id: str | None,
) -> HeadRecord:
    """What every head of the run has in common."""
    return HeadRecord(
        **HeadSpec.of(columns, training).to_dict(),
        train_holdout=dataclasses.asdict(data.holdout) if data.holdout else None,
        pairs={**data.describe(), "checksum": data.checksum()},
        recipe_fingerprint=store.manifest.recipe_fingerprint,
        store_fingerprint=store.manifest.fingerprint,
        step=0,
        metrics={},
        config=run_config,
        tracking_run_id=run_id,
    )
