"""Judges without training, which a head has to beat: output length and the LLM's likelihood."""

import numpy as np
import pyarrow as pa

from featurize.arrays import Floats

LIKELIHOOD_JUDGES = ("logprob_mean", "logprob_sum")
"""Columns of a sample table made with likelihood: mean and sum over the output tokens."""


def shortcut_scores(samples: pa.Table) -> dict[str, Floats]:
    """Return each trivial judge's scores [n] of a feature store's sample table, row by row.

    A likelihood column that is missing or empty is left out; a single null in it becomes NaN,
    which `ScoredSamples` refuses by its index.
    """
    length = _column(samples, "output_tokens")
    scores = {"longer_is_correct": length, "shorter_is_correct": -length}
    for name in LIKELIHOOD_JUDGES:
        if name in samples.column_names and samples[name].null_count < samples.num_rows:
            scores[name] = _column(samples, name)
    return scores


def _column(samples: pa.Table, name: str) -> Floats:
    return np.asarray(samples[name].to_numpy(), dtype=np.float64)
