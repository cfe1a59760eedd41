"""A baseline: the same head on features of the same backbone before it was trained.

What such a head knows it has from the architecture, the tokenizer and the texts' surface; only what
the judged head knows beyond it comes from the backbone's training.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from configs.progress import CountProgress
from configs.terminal import console
from featurize.arrays import Floats
from featurize.io.files import digest
from featurize.model.device import resolve_device
from featurize.run.launch import LAUNCHED
from featurize.run.plan import FeaturizeJob
from featurize.run.selection import Selection
from featurize.run.session import run_session
from featurize.settings import RuntimeSettings
from featurize.store import FeatureStore, read_pairs
from headtrain.head.checkpoint import CheckpointError, TrainedHead, load_head
from headtrain.pairs.pair_plan import pair_settings, read_excluded_problems
from headtrain.settings import (
    CheckpointSettings,
    DataSamplingSettings,
    TrainingSettings,
)
from headtrain.tracking import NullTracker
from headtrain.training.run import VALID
from headtrain.training.train import train_head

if TYPE_CHECKING:
    from configs.config import Config
    from configs.paths import Layout
    from featurize.run.selection import Choose

NAME = "random_backbone"
"""Among the judges."""

_SPLIT = "CRITIC_RANDOM_BACKBONE_SPLIT"
"""Tells processes that are started to featurize which split is theirs."""

Section = TypeVar("Section")

logger = logging.getLogger(__name__)


def score_with_random_backbone(
    trained: TrainedHead,
    stores: Mapping[str, FeatureStore],
    settings: "Config",
    layout: "Layout",
    open_split: Callable[[str], FeatureStore],
) -> dict[str, dict[str, Floats]] | None:
    """Scores of the baseline by split and judge, [samples] of each store; trains it where need be.

    Its features are of the samples of the stores, and its head has the settings and the pairs of
    the judged one. Both are kept and found again. `open_split` opens the store of a split that is
    not among `stores`: a head that validation has chosen is compared with one that it has chosen.
    Returns None in processes that are not the one to go on.

    Raises:
        ValueError: the dataset is not the one the stores were made of, or cannot be read.
    """
    if "RANK" in os.environ and LAUNCHED not in os.environ:
        raise ValueError(
            "--baseline random-backbone starts processes itself; run `critic eval` without torchrun"
        )
    for store in stores.values():
        trained.check(store)  # before hours of work
    wanted = dict(stores)
    chosen_by = str(trained.record.selection.get("by", ""))
    has_valid = chosen_by.startswith((f"{VALID}/", "choose/"))  # of a run, or of a sweep
    if has_valid and VALID not in wanted:
        wanted[VALID] = open_split(VALID)
    only = os.environ.get(_SPLIT) if LAUNCHED in os.environ else None
    made = {}
    for split, store in wanted.items():
        if only is not None and split != only:
            continue
        os.environ[_SPLIT] = split
        try:
            found = _featurize(split, store, settings, layout)
        finally:
            del os.environ[_SPLIT]
        if found is None:
            return None
        made[split] = found
    head = _train(trained, made, settings, layout, chosen_on=VALID if has_valid else None)
    if head.record.pairs["checksum"] != trained.record.pairs.get("checksum"):
        logger.warning("the head on a random backbone learnt from other pairs than the judged one")
    return {split: {NAME: _scores(head, made[split], store)} for split, store in stores.items()}


def _featurize(
    split: str, store: FeatureStore, settings: "Config", layout: "Layout"
) -> FeatureStore | None:
    """The features of a random backbone for the samples of a store."""
    job = FeaturizeJob(
        backbone=replace(settings.models.policy, weights="random"),
        dataset=settings.dataset,
        featurize=settings.featurize,
        runtime=settings.runtime,
        split=split,
        store_dir=layout.random_features_dir(split, store.manifest.fingerprint),
        cache_dir=layout.cache_dir,
        distributed=settings.distributed,
        command=f"critic eval --split {split} --baseline random-backbone",
    )
    title = f"plan: featurize {split} with a random backbone"
    if not run_session(job, title=title, choose=_same_samples(store)):
        return None
    return FeatureStore.open(job.store_dir, layout.cache_dir)


def _same_samples(store: FeatureStore) -> "Choose":
    """Selects the samples of a store, and the pairs it was made for, from the dataset's index."""

    def choose(table: pa.Table, _count_outputs: object) -> Selection:
        rows = pc.index_in(
            store.samples["task_id"].combine_chunks(),
            value_set=table["task_id"].combine_chunks().cast(store.samples["task_id"].type),
        )
        if rows.null_count:
            raise ValueError(
                f"the dataset lacks {rows.null_count:,} of the {store.samples.num_rows:,} samples"
                f" in {store.path}, so that a random backbone cannot read them; give the dataset"
                " the features were made of, or leave --baseline out"
            )
        places = rows.to_numpy().astype(np.int64)  # of each sample of the store in the index
        pairs = read_pairs(store.samples)
        if pairs is not None:
            pairs = replace(pairs, correct=places[pairs.correct], incorrect=places[pairs.incorrect])
        return Selection(pairs=pairs, also=places)

    return choose


def _train(
    trained: TrainedHead,
    made: Mapping[str, FeatureStore],
    settings: "Config",
    layout: "Layout",
    *,
    chosen_on: str | None,
) -> TrainedHead:
    """The head of the judged one's settings on these features."""
    record = trained.record
    training = replace(
        _section(trained, "training", TrainingSettings),
        features=list(record.tensors),
        likelihood=record.likelihood,
    )
    sampling = _section(trained, "data_sampling", DataSamplingSettings)
    runtime = _section(trained, "runtime", RuntimeSettings)
    checkpoint = replace(
        _section(trained, "checkpoint", CheckpointSettings),
        save_best=True,
        save_final=True,
        s3_upload=False,
    )
    valid = made[chosen_on] if chosen_on else None
    sections: list[Any] = [asdict(one) for one in (training, sampling, runtime)]
    # All that train_head takes a run to be: a run of anything else is not in the way of this one.
    key = [
        *sections,
        pair_settings(sampling, read_excluded_problems(sampling.pairwise)),
        checkpoint.save_checkpoint_every,
        record.train_holdout,
        chosen_on,
        made["train"].manifest.fingerprint,
        valid.manifest.fingerprint if valid else None,
    ]
    folder = layout.random_checkpoint_dir(digest(key))
    with CountProgress(console(), "random backbone", "steps") as count:
        result = train_head(
            train=made["train"],
            valid=valid,
            training=training,
            sampling=sampling,
            checkpoint=checkpoint,
            device=resolve_device(settings.runtime.device),
            seed=runtime.seed,
            train_holdout=record.holdout.share if record.holdout else 0.0,
            run_config=dict(record.config),
            checkpoint_dir=folder,
            tracker=NullTracker(),
            cache_dir=layout.cache_dir,
            mixed_precision=runtime.mixed_precision,
            progress=lambda now: count(now.step, now.num_steps),
        )
    is_last = record.selection.get("by") == "last step"
    kept: Path | None = result.final if is_last or result.best is None else result.best
    assert kept is not None, "a final head is always kept"
    state = "up to date" if result.was_up_to_date else "trained"
    console().print(f"head on a random backbone {state}: {kept}")
    return load_head(kept)


def _scores(head: TrainedHead, made: FeatureStore, store: FeatureStore) -> Floats:
    """The head's values of the samples of a store, whose features it does not read: [samples]."""
    values = np.asarray(head.score(made), np.float64)
    task_ids = made.samples["task_id"].combine_chunks()
    rows = pc.index_in(store.samples["task_id"].combine_chunks(), value_set=task_ids)
    places = rows.to_numpy().astype(np.int64)
    return np.asarray(values[places], np.float64)


def _section(trained: TrainedHead, name: str, kind: type[Section]) -> Section:
    try:
        section: Section = TypeAdapter(kind).validate_python(trained.record.config[name])
    except (KeyError, ValidationError) as error:
        raise CheckpointError(
            f"{trained.path}: its {name} settings are not of this version, so that no other head"
            " can be trained alike; train the head again, or leave --baseline out"
        ) from error
    return section
