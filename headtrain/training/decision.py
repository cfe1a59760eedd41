"""What turns a head's values into probabilities, fitted on the samples it was trained on."""

import numpy as np

from featurize.store import FeatureStore
from headtrain.features.inputs import read_labelled_samples
from headtrain.head.checkpoint import TrainedHead
from headtrain.metrics.calibration import Decision
from headtrain.metrics.pairwise import ScoredSamples


def fit_decision(train: FeatureStore, head: TrainedHead) -> Decision:
    """Calibration and threshold on all labelled train samples but those of held-out problems.

    They are the samples `critic eval` calls train: it finds the same numbers.
    """
    labelled = read_labelled_samples(train)
    if head.record.holdout is not None:
        is_held = head.record.holdout.mask(train.samples["problem_id"])[labelled.table_rows]
        labelled = labelled.take(~is_held)
    scores = np.asarray(head.score(train), np.float64)
    return Decision.fit(
        ScoredSamples(
            scores=scores[labelled.table_rows],
            is_correct=labelled.is_correct,
            problem=labelled.problems,
            output_tokens=labelled.output_tokens,
        )
    )
