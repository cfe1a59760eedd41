"""What lies in a feature store: its schema, units and manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from featurize.files import read_json

FORMAT_VERSION = 1

LIKELIHOOD_COLUMNS = ("logprob_sum", "logprob_mean", "logprob_min", "entropy_mean")
"""Log-probability of the output given the prompt, in nats, and mean next-token entropy."""

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


class FeatureStoreError(ValueError):
    """A store that is missing, damaged, unfinished or of another make."""


@dataclass(frozen=True, kw_only=True)
class UnitFeatures:
    """What one unit of work gave."""

    tensors: Mapping[str, torch.Tensor]  # name -> [feature_rows, width], storage dtype
    samples: pa.Table  # SAMPLE_SCHEMA (+ likelihood columns); feature_row counts from 0 in the unit


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One finished unit as the manifest names it."""

    number: int
    samples: int
    feature_rows: int
    files: dict[str, dict[str, Any]]  # file name -> {"bytes": int, "checksum": hex}
    counts: dict[str, int]  # what happened to its samples: truncated, duplicate, tokens, ...


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished store is, from what it was made, and the files that make it up."""

    format_version: int
    fingerprint: str  # recipe + dataset content
    recipe_fingerprint: str  # the recipe alone: equal for the train and valid stores of one run
    recipe: dict[str, Any]  # backbone, tokenizer, template, truncation, layers, poolings, dtypes
    tensors: dict[str, int]  # name -> width
    dtype: str
    counts: dict[str, int]
    units: list[Unit]


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a finished store, or None where there is none.

    Raises:
        FeatureStoreError: it is damaged or of a format this version cannot read.
    """
    manifest_path = path / "manifest.json"
    if not manifest_path.exists():
        return None
    try:
        fields = read_json(manifest_path)
    except ValueError as error:
        raise FeatureStoreError(str(error)) from error
    try:
        if fields.get("format_version") != FORMAT_VERSION:
            raise FeatureStoreError(
                f"{manifest_path}: format version {fields.get('format_version')!r}, this version"
                f" reads {FORMAT_VERSION}; make the features again with `critic featurize`"
            )
        fields["units"] = [Unit(**unit) for unit in fields["units"]]
        return Manifest(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise FeatureStoreError(
            f"{manifest_path}: damaged ({error}); delete it and rerun `critic featurize`, which"
            " keeps the finished units"
        ) from error
