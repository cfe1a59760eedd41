"""Measures a head: accuracy on problems it is not trained on, calibration, distance to train."""

from pathlib import Path

import numpy as np
import torch

from featurize.arrays import Floats32, Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import ROWS_AT_ONCE, HeadInputs, InputColumns, read_head_inputs
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead, load_head, upload_head
from headtrain.head.distance import Distance
from headtrain.head.model import FeatureNormaliser, HeadModel
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import (
    PairwiseAccuracy,
    ScoredSamples,
    pairwise_accuracy,
    pairwise_counts,
)

VALID, HOLDOUT = "valid", "holdout"
"""Names of the sets a head is validated on."""


def measure_accuracy(model: HeadModel, inputs: HeadInputs) -> PairwiseAccuracy:
    """Compute the pairwise accuracy on normalised inputs, without dropout; ties count one half."""
    return pairwise_accuracy(pairwise_counts(score_inputs(model, inputs)))


@torch.no_grad()
def score_inputs(model: HeadModel, inputs: HeadInputs) -> ScoredSamples:
    """Score every sample of normalised inputs, without dropout."""
    was_training, device = model.training, next(model.buffers()).device
    model.eval()
    values = torch.cat(
        [
            model.score_normalised(chunk.to(device)).squeeze(-1).float()
            for chunk in torch.split(inputs.features, ROWS_AT_ONCE)
        ]
    )  # [rows]
    model.train(was_training)
    return _scored(inputs.samples, values.cpu().numpy()[inputs.rows])


def read_validation(
    store: FeatureStore,
    columns: InputColumns,
    *,
    limit: int | None,
    seed: int,
    normaliser: FeatureNormaliser,
    memory: FeatureMemory,
    samples: LabelledSamples | None = None,
) -> HeadInputs:
    """Read and normalise at most `limit` of the samples (default: all), whole problems with a pair.

    Raises:
        CriticError: there is no such problem.
    """
    if samples is None:
        samples = read_labelled_samples(store)
    kept = choose_whole_problems(samples, limit, seed)
    if not len(kept):
        raise CriticError(
            f"{store.path}: no problem has both a correct and an incorrect output, so no head can "
            "be validated on it; name another dataset.validation"
        )
    inputs = read_head_inputs(store, columns, samples=samples.take(kept), memory=memory)
    normaliser.normalise_(inputs.features)
    return inputs


def take_problems(inputs: HeadInputs, limit: int, seed: int) -> HeadInputs:
    """Take at most `limit` of the samples a head is trained on, whole problems with both labels.

    Measured without dropout, as validation is, they show how much a head has memorised.
    """
    kept = choose_whole_problems(inputs.samples, limit, seed)
    rows, places = np.unique(inputs.rows[kept], return_inverse=True)
    return HeadInputs(
        samples=inputs.samples.take(kept),
        features=inputs.features[torch.from_numpy(rows)],  # a copy of these rows only
        rows=places.astype(np.int64),
    )


def choose_whole_problems(samples: LabelledSamples, limit: int | None, seed: int) -> Ints:
    """Choose random problems with at most `limit` samples in all, at least one problem.

    Only problems with both labels are chosen. Returns the indices of their samples.
    """
    num_problems = int(samples.problems.max(initial=-1)) + 1
    sizes = np.bincount(samples.problems, minlength=num_problems)
    num_correct = np.bincount(samples.problems[samples.is_correct], minlength=num_problems)
    useful = np.flatnonzero((num_correct > 0) & (num_correct < sizes))
    if limit is not None and int(sizes[useful].sum()) > limit:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(useful)
        chosen, left = [], limit
        for problem in order:
            if sizes[problem] <= left:
                chosen.append(problem)
                left -= int(sizes[problem])
        useful = np.array(chosen or [useful[np.argmin(sizes[useful])]])
    return np.flatnonzero(np.isin(samples.problems, useful))


def fit_decision(train: FeatureStore, head: TrainedHead) -> Decision:
    """Fit calibration and threshold on all labelled train samples of problems not held out.

    These are the samples that `critic eval` calls train, so it finds the same numbers.
    """
    labelled = _trained_on(head, train)
    return Decision.fit(_scored(labelled, head.score(train)[labelled.table_rows]))


def keep_distance(folder: Path, train: FeatureStore, upload_uri: str | None = None) -> Distance:
    """Fit the distance to the train features of a head and write it into its folder.

    A distance that is there is kept if it belongs to the head's weights. With `upload_uri` the head
    is uploaded again, with it.

    Raises:
        CriticError: `train` is not the store the head was trained on, or too small.
    """
    head = load_head(folder)
    if (found := _kept_distance(head)) is None:
        found = _fit_distance(head, train)
        found.write(Path(head.path), head.record.weights_checksum)
        if upload_uri is not None:
            upload_head(Path(head.path), upload_uri)
    return found


def _kept_distance(head: TrainedHead) -> Distance | None:
    try:
        return head.read_distance()
    except CriticError:  # damaged or of earlier weights: it is fitted again
        return None


def _fit_distance(head: TrainedHead, train: FeatureStore) -> Distance:
    head.check(train)
    if train.manifest.fingerprint != head.record.store_fingerprint:
        raise CriticError(
            f"{head.path} was trained on the features {head.record.store_fingerprint}, but "
            f"{train.path} holds {train.manifest.fingerprint}; name the train set of the head"
        )
    samples = _trained_on(head, train)
    inputs = read_head_inputs(train, head.record.columns, samples=samples)
    problems = np.empty(inputs.num_whole, np.int64)
    problems[inputs.rows] = samples.problems
    return Distance.fit(inputs.features.numpy(), problems)


def _trained_on(head: TrainedHead, train: FeatureStore) -> LabelledSamples:
    """Read the labelled samples without the problems that were held out."""
    samples = read_labelled_samples(train)
    if head.record.holdout is None:
        return samples
    is_held = head.record.holdout.mask(train.samples["problem_id"])
    return samples.take(~is_held[samples.table_rows])


def _scored(samples: LabelledSamples, values: Floats32) -> ScoredSamples:
    return ScoredSamples(
        scores=np.asarray(values, np.float64),
        is_correct=samples.is_correct,
        problem=samples.problems,
        output_tokens=samples.output_tokens,
        equal_pairs=samples.equal_pairs,
    )
