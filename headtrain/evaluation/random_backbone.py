"""A baseline: the same head on features of the same backbone before it was trained.

What such a head knows comes from the architecture, the tokenizer and the surface of the texts; only
what the evaluated head knows beyond it comes from the backbone's training.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from featurize.arrays import Floats
from featurize.io.files import digest
from featurize.model.device import resolve_device
from featurize.run.job import FeaturizeJob
from featurize.run.plan import Choose, Selection
from featurize.settings import RuntimeSettings
from featurize.store import FeatureStore
from featurize.store.samples import read_pairs
from headtrain.head.checkpoint import CheckpointError, TrainedHead, load_head
from headtrain.pairs.plan import pair_settings
from headtrain.settings import CheckpointSettings, DataSamplingSettings, TrainingSettings
from headtrain.tracking.tracker import Tracker
from headtrain.training.run import TrainResult, train_head
from headtrain.training.validation import VALID

NAME = "random_backbone"
"""Its name among the baselines."""

Section = TypeVar("Section")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """What the baseline says of the evaluated samples."""

    scores: dict[str, dict[str, Floats]]
    """By split and name, [samples] of each store."""
    head: Path
    was_up_to_date: bool


@dataclass(frozen=True, kw_only=True)
class RandomBackbone:
    """How to make the baseline, and where to keep it."""

    job_of: Callable[[str], FeaturizeJob]
    """The featurize job of a split, with the pretrained backbone."""
    featurize: Callable[[FeaturizeJob, Choose], None]
    """Runs a job over selected samples (`run_job` with a reporter)."""
    open_store: Callable[[str], FeatureStore]
    """Opens the store of a split that is not evaluated: the one that chose the head."""
    features_dir: Callable[[str, str], Path | str]
    """Folder of a split's features, by split and fingerprint of the evaluated store."""
    checkpoint_dir: Callable[[str], Path]
    """Folder of the head, by a digest of what it is made of."""
    progress: Callable[[int, int], None]
    """Follows the training: steps done, steps in all."""

    def score(self, trained: TrainedHead, stores: Mapping[str, FeatureStore]) -> BaselineScores:
        """Make the baseline and score the samples of the stores.

        Its features are of the samples of the stores, and its head has the settings and the pairs
        of the evaluated one. Both are saved and reused.

        Raises:
            ValueError: the dataset is not the one the stores were made from, or cannot be read.
        """
        for store in stores.values():
            trained.check(store)  # before hours of work
        wanted = dict(stores)
        chosen_by = str(trained.record.selection.get("by", ""))
        has_valid = chosen_by.startswith((f"{VALID}/", "choose/"))  # of a run, or of a sweep
        if has_valid and VALID not in wanted:
            wanted[VALID] = self.open_store(VALID)
        made = {split: self._featurize(split, store) for split, store in wanted.items()}
        result = self._train(trained, made, chosen_on=VALID if has_valid else None)
        is_last = trained.record.selection.get("by") == "last step"
        kept = result.final if is_last or result.best is None else result.best
        assert kept is not None, "a final head is always kept"
        head = load_head(kept)
        if head.record.pairs["checksum"] != trained.record.pairs.get("checksum"):
            logger.warning(
                "the head on a random backbone was trained on other pairs than the evaluated one"
            )
        return BaselineScores(
            scores={
                split: {NAME: _scores(head, made[split], store)} for split, store in stores.items()
            },
            head=kept,
            was_up_to_date=result.was_up_to_date,
        )

    def _featurize(self, split: str, store: FeatureStore) -> FeatureStore:
        """Features of a random backbone for the samples of a store."""
        job = self.job_of(split)
        job = replace(
            job,
            backbone=replace(job.backbone, weights="random"),
            store_dir=self.features_dir(split, store.manifest.fingerprint),
        )
        self.featurize(job, _same_samples(store))
        return FeatureStore.open(job.store_dir, job.cache_dir)

    def _train(
        self, trained: TrainedHead, made: Mapping[str, FeatureStore], *, chosen_on: str | None
    ) -> TrainResult:
        """Train a head with the settings of the evaluated one on these features."""
        job = self.job_of("train")
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
        # All that train_head takes a run to be: runs of anything else have other folders.
        key = [
            *sections,
            pair_settings(sampling),
            checkpoint.save_checkpoint_every,
            record.train_holdout,
            chosen_on,
            made["train"].manifest.fingerprint,
            valid.manifest.fingerprint if valid else None,
        ]
        return train_head(
            train=made["train"],
            valid=valid,
            training=training,
            sampling=sampling,
            checkpoint=checkpoint,
            device=resolve_device(job.runtime.device),
            seed=runtime.seed,
            train_holdout=record.holdout.share if record.holdout else 0.0,
            run_config=dict(record.config),
            checkpoint_dir=self.checkpoint_dir(digest(key)),
            tracker=Tracker(),
            cache_dir=job.cache_dir,
            mixed_precision=runtime.mixed_precision,
            progress=self.progress,
        )


def _same_samples(store: FeatureStore) -> Choose:
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
                " the features were made from, or leave --baseline out"
            )
        places = rows.to_numpy().astype(np.int64)  # of each sample of the store in the index
        pairs = read_pairs(store.samples)
        if pairs is not None:
            pairs = replace(pairs, correct=places[pairs.correct], incorrect=places[pairs.incorrect])
        return Selection(pairs=pairs, also=places)

    return choose


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
            f"{trained.path}: its {name} settings are not of this version, so no other head"
            " can be trained like it; train the head again, or leave --baseline out"
        ) from error
    return section
