"""The inputs that a head is trained on: read, centred, normalised, with those of prefixes."""

import numpy as np
import torch

from featurize.arrays import Ints
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import HeadInputs, read_head_inputs
from headtrain.features.memory import FeatureMemory
from headtrain.features.samples import LabelledSamples, rank_strings
from headtrain.features.segments import kept_segments, num_segments_of, why_no_prefixes
from headtrain.head.model import FeatureNormaliser, mean_of
from headtrain.head.spec import HeadSpec
from headtrain.settings import TrainingSettings


def read_train_inputs(
    store: FeatureStore,
    samples: LabelledSamples,
    spec: HeadSpec,
    training: TrainingSettings,
    *,
    normaliser: FeatureNormaliser,
    memory: FeatureMemory,
) -> HeadInputs:
    """Read the train features and normalise them in place, by a normaliser fitted to whole outputs.

    Raises:
        CriticError: training.prefixes or training.centre needs what the store does not have.
    """
    columns = spec.columns
    prefixes = _prefixes(store, spec, training)
    inputs = read_head_inputs(store, columns, samples=samples, memory=memory, prefixes=prefixes)
    if training.centre != "none":
        groups = _group_rows(store, inputs, training.centre)
        mean = mean_of(inputs.features[: inputs.num_whole])
        for features in inputs.features.split(inputs.num_whole):
            centre_(features, groups, mean)
    if training.normaliser != "none":
        whole = inputs.features[: inputs.num_whole]
        normaliser.fit(whole, spec.units if training.normaliser == "tensor" else None, spec.layout)
    normaliser.normalise_(inputs.features)
    return inputs


def centre_(features: torch.Tensor, groups: Ints, mean: torch.Tensor) -> None:
    """Move the rows of each group so that its mean is `mean`, in place.

    Args:
        features: [rows, width].
        groups: [rows] code of the group of each row; of a group of one row nothing is left.
        mean: float64 [width].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    for rows in np.split(order, starts):
        places = torch.from_numpy(rows).to(features.device)
        own = features[places].double()
        features[places] = (own - own.mean(0) + mean).to(features.dtype)


def _prefixes(store: FeatureStore, spec: HeadSpec, training: TrainingSettings) -> list[int]:
    """Numbers of segments of the prefixes to train on, without the whole outputs."""
    if training.prefixes is None:
        return []
    why = why_no_prefixes(
        store,
        spec.columns.tensors,
        likelihood=spec.likelihood,
        is_on_segments=spec.layout is not None,
    )
    if why is not None:
        raise CriticError(f"training.prefixes {list(training.prefixes)}: {why}")
    return kept_segments(training.prefixes, num_segments_of(store))[:-1]


def _group_rows(store: FeatureStore, inputs: HeadInputs, centre: str) -> Ints:
    """Code of the problem or author of each row of whole outputs, that of its first sample."""
    samples = inputs.samples
    _, first = np.unique(inputs.rows, return_index=True)
    if centre == "problem":
        return samples.problems[first]
    if "author" not in store.samples.column_names:
        raise CriticError(
            f"{store.path}: has no authors, by whom training.centre is to centre features; name "
            "them in the samples' metadata.author and featurize again, or set it to none"
        )
    return rank_strings(store.samples["author"]).codes[samples.table_rows[first]]
