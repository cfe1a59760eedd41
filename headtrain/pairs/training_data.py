"""The pairs of a train store with the samples that a head is trained on."""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.store import SHARED_IDS_REMEDY, SharedIds, find_shared_ids
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.pairs.holdout import Holdout
from headtrain.pairs.plan import plan_training
from headtrain.pairs.sampler import PairError, PairPlan
from headtrain.settings import DataSamplingSettings

if TYPE_CHECKING:
    from featurize.store import FeatureStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The pairs of a train store."""

    samples: LabelledSamples
    """The samples of the pairs; nothing else is read from the store."""
    plan: PairPlan
    """Pairs of indices into `samples`."""
    holdout: Holdout | None
    """The problems that are only scored."""
    held_out: LabelledSamples
    """The labelled samples of those problems."""
    shared_ids: SharedIds | None = None
    """The problem ids that several statements share."""

    def describe(self) -> dict[str, Any]:
        """Count pairs and samples, and measure whether length alone separates the labels."""
        plan, samples = self.plan, self.samples
        longer = samples.output_tokens[plan.correct] - samples.output_tokens[plan.incorrect]
        return {
            "num_pairs": len(plan.correct),
            "num_possible_pairs": plan.num_possible,
            "num_problems": plan.num_problems,
            "num_samples": len(samples),
            "num_unlabelled": samples.num_unlabelled,
            "num_left_out": plan.num_left_out - len(self.held_out),
            "num_held_out": len(self.held_out),
            "num_equal_pairs": plan.num_equal,
            "num_shared_ids": self.shared_ids.num_problems if self.shared_ids else 0,
            "mean_length_difference": float(longer.mean()),
            "longer_is_correct": float((longer > 0).mean() + (longer == 0).mean() / 2),
        }

    def checksum(self) -> str:
        """SHA-256 of the pairs, as rows of the store's sample table."""
        content = hashlib.sha256()
        for indices in (self.plan.correct, self.plan.incorrect):
            content.update(self.samples.table_rows[indices].astype("<i8").tobytes())
        return content.hexdigest()


def read_training_data(
    store: "FeatureStore", sampling: DataSamplingSettings, *, train_holdout: float = 0.0
) -> TrainingData:
    """Draw the pairs of a store, without the problems excluded or held out.

    Raises:
        PairError: the store holds no pair, or the settings leave none.
    """
    samples = read_labelled_samples(store)
    try:
        training = plan_training(store.samples, sampling, train_holdout=train_holdout)
    except PairError as error:
        raise PairError(f"{store.path}: {error}") from error
    pairs = training.pairs  # of rows of the store
    is_kept = np.zeros(store.samples.num_rows, bool)
    is_kept[np.concatenate([pairs.correct, pairs.incorrect])] = True
    kept = samples.take(is_kept[samples.table_rows])
    index = np.empty(store.samples.num_rows, np.int64)  # of a row in `kept`
    index[kept.table_rows] = np.arange(len(kept))
    if (shared := find_shared_ids(store.samples)) is not None:
        logger.warning("%s: %s; %s", store.path, shared, SHARED_IDS_REMEDY)
    if pairs.num_equal:
        logger.warning(
            "%s: %d pairs are left out: both sides have the same tokens, after outputs are cut at"
            " dataset.max_length",
            store.path,
            pairs.num_equal,
        )
    return TrainingData(
        samples=kept,
        plan=replace(pairs, correct=index[pairs.correct], incorrect=index[pairs.incorrect]),
        holdout=training.holdout,
        held_out=samples.take(np.isin(samples.table_rows, training.held_out)),
        shared_ids=shared,
    )
