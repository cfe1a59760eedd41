"""The schema of the sample table and the content of one unit."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

LIKELIHOOD_COLUMNS = ("logprob_sum", "logprob_mean", "logprob_min", "entropy_mean")
"""Log-probability of the output given the prompt, in nats, and mean next-token entropy."""

ANSWER_COLUMNS = ("yes_logprob", "no_logprob")
"""Log-probabilities of the two answers to the question after the output, in nats."""

SEGMENT_TOKENS = "segment_tokens"
"""Tensor of the tokens of each segment, [feature_rows, segments]; float32 in every store."""

SEGMENT_LOGPROB = "segment_logprob"
"""Tensor of the mean log-probability of each segment's tokens, in nats; 0 where there are none."""

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


def segments_name(layer: int) -> str:
    """Name of the tensor of a layer's segments, [feature_rows, segments * width]."""
    return f"segments.{layer}"


def is_of_segments(name: str) -> bool:
    """Whether a tensor is about the segments of outputs."""
    return name.startswith("segments.") or is_exact(name)


def is_exact(name: str) -> bool:
    """Whether a tensor is float32 in every store: 16 bits hold no exact counts."""
    return name in (SEGMENT_TOKENS, SEGMENT_LOGPROB)


def stored_as(name: str, dtype: torch.dtype) -> torch.dtype:
    """Number format of a tensor in a store of features in `dtype`."""
    return torch.float32 if is_exact(name) else dtype


@dataclass(frozen=True, kw_only=True)
class UnitFeatures:
    """The features and samples of one unit."""

    tensors: Mapping[str, torch.Tensor]  # name -> [feature_rows, width], see `stored_as`
    samples: (
        pa.Table
    )  # SAMPLE_SCHEMA (+ likelihood and answers); feature_row counts from 0 in the unit
