"""The schema of the sample table and the content of one unit."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

LIKELIHOOD_COLUMNS = ("logprob_sum", "logprob_mean", "logprob_min", "entropy_mean")
"""Log-probability of the output given the prompt, in nats, and mean next-token entropy."""

ANSWER_COLUMNS = ("yes_logprob", "no_logprob")
"""Log-probabilities of the two answers to the question after the output, in nats."""

SAMPLE_SCHEMA = pa.schema(
    [
        ("task_id", pa.string()),
        ("problem_id", pa.string()),
        ("is_correct", pa.bool_()),
        ("language", pa.string()),
        ("difficulty", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("prompt_truncated", pa.bool_()),
        ("output_truncated", pa.bool_()),
        ("feature_row", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class UnitFeatures:
    """The features and samples of one unit."""

    tensors: Mapping[str, torch.Tensor]  # name -> [feature_rows, width], storage dtype
    samples: (
        pa.Table
    )  # SAMPLE_SCHEMA (+ likelihood and answers); feature_row counts from 0 in the unit
