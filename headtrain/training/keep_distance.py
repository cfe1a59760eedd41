"""Keeps the distance to train beside heads that are there already."""

from pathlib import Path

import numpy as np

from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import read_head_inputs
from headtrain.features.samples import LabelledSamples, read_labelled_samples
from headtrain.head.checkpoint import TrainedHead, load_head, upload_head
from headtrain.head.distance import Distance


def keep_distance(folder: Path, train: FeatureStore, upload_uri: str | None = None) -> Distance:
    """Fit the distance to the train features of a head and write it into its folder.

    A distance that is there is kept if it belongs to the head's weights. With `upload_uri` the head
    is uploaded again, with it.

    Raises:
        CriticError: `train` is not the store the head was trained on, or too small.
    """
    head = load_head(folder)
    if (found := _find(head)) is None:
        found = _fit(head, train)
        found.write(Path(head.path), head.record.weights_checksum)
        if upload_uri is not None:
            upload_head(Path(head.path), upload_uri)
    return found


def _find(head: TrainedHead) -> Distance | None:
    try:
        return head.read_distance()
    except CriticError:  # damaged or of earlier weights: it is fitted again
        return None


def _fit(head: TrainedHead, train: FeatureStore) -> Distance:
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
