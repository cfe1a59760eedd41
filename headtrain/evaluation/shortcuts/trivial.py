"""Judges that need no training: output length, and the likelihood and the answer of the LLM."""

import numpy as np
import pyarrow as pa
from scipy.special import expit

from featurize.arrays import Floats
from featurize.store.samples import ANSWER_COLUMNS

ANSWER_JUDGE = "probability_of_yes"
"""P(Yes) / (P(Yes) + P(No)): the LLM's own answer to the question after the output."""

LIKELIHOOD_JUDGES = ("logprob_mean", "logprob_sum")
"""Columns of a sample table with likelihood: mean and sum over the output tokens."""


def shortcut_scores(samples: pa.Table) -> dict[str, Floats]:
    """Get the scores of each judge, [n], from the sample table of a feature store.

    A missing or empty column is left out. A single null becomes NaN, which
    `ScoredSamples` refuses with its index.
    """
    length = _column(samples, "output_tokens")
    scores = {"longer_is_correct": length, "shorter_is_correct": -length}
    for name in LIKELIHOOD_JUDGES:
        if name in samples.column_names and samples[name].null_count < samples.num_rows:
            scores[name] = _column(samples, name)
    if set(ANSWER_COLUMNS) <= set(samples.column_names):
        yes, no = (_column(samples, name) for name in ANSWER_COLUMNS)
        scores[ANSWER_JUDGE] = expit(yes - no)
    return scores


def _column(samples: pa.Table, name: str) -> Floats:
    return np.asarray(samples[name].to_numpy(), dtype=np.float64)
