"""What a head is trained on: the drawn pairs, their samples, and the problems held out of them."""

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.store import FeatureStore
from headtrain.features.inputs import LabelledSamples, read_labelled_samples
from headtrain.pairs.holdout import Holdout
from headtrain.pairs.sampler import PairError, PairPlan
from headtrain.pairs.training_plan import plan_training
from headtrain.settings import DataSamplingSettings


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Pairs of a train store."""

    samples: LabelledSamples
    """The samples that pairs touch; nothing else is read from the store."""
    plan: PairPlan
    """Pairs of places in `samples`."""
    holdout: Holdout | None
    """Which problems were left out to be scored only."""
    held_out: LabelledSamples
    """The labelled samples of those problems."""

    def describe(self) -> dict[str, Any]:
        """What the pairs are, and whether length alone would tell their samples apart."""
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
            "mean_length_difference": float(longer.mean()),
            "longer_is_correct": float((longer > 0).mean() + (longer == 0).mean() / 2),
        }

    def checksum(self) -> str:
        """Digest of the pairs, by where their samples stand in the store."""
        content = hashlib.sha256()
        for places in (self.plan.correct, self.plan.incorrect):
            content.update(self.samples.table_rows[places].astype("<i8").tobytes())
        return content.hexdigest()


def read_training_data(
    store: FeatureStore,
    sampling: DataSamplingSettings,
    *,
    excluded: Collection[str] = (),
    train_holdout: float = 0.0,
) -> TrainingData:
    """Draw the pairs of a store, none of them of a problem excluded or held out."""
    samples = read_labelled_samples(store)
    try:
        training = plan_training(
            store.samples, sampling, excluded=excluded, train_holdout=train_holdout
        )
    except PairError as error:
        raise PairError(f"{store.path}: {error}") from error
    plan = training.pairs  # of rows of the store
    is_kept = np.zeros(store.samples.num_rows, bool)
    is_kept[np.concatenate([plan.correct, plan.incorrect])] = True
    kept = samples.take(is_kept[samples.table_rows])
    places = np.empty(store.samples.num_rows, np.int64)
    places[kept.table_rows] = np.arange(len(kept))
    plan = dataclasses.replace(plan, correct=places[plan.correct], incorrect=places[plan.incorrect])
    held_out = samples.take(np.isin(samples.table_rows, training.held_out))
    return TrainingData(samples=kept, plan=plan, holdout=training.holdout, held_out=held_out)
