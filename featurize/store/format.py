"""What lies in a feature store: its schema, units and manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from featurize.errors import FeatureStoreError
from featurize.io.remote import open_folder

FORMAT_VERSION = 1

SAMPLES_FILE = "samples.parquet"
"""Beside the files of the units, in a store of many: the sample tables of all as one."""

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


class DamagedFileError(FeatureStoreError):
    """A file of a finished unit that is missing, or not the one that was written."""

    def __init__(self, store: Path | str, file: str, reason: str | Exception) -> None:
        what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        self.reason = f"{file}: {what}".splitlines()[0]
        super().__init__(
            f"{store}: damaged ({self.reason}); `{repair_command(store)}` with the same config"
            " redoes only what is"
        )


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
    sample_table: dict[str, Any] | None = (
        None  # bytes and checksum of SAMPLES_FILE, if there is one
    )

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """All in `units/` but for receipts: file name -> {"bytes": int, "checksum": hex}."""
        files = {name: file for unit in self.units for name, file in unit.files.items()}
        return files if self.sample_table is None else files | {SAMPLES_FILE: self.sample_table}


def read_manifest(store: Path | str) -> Manifest | None:
    """The manifest of a finished store, at a path or URI, or None where there is none.

    Raises:
        FeatureStoreError: it is damaged or of a format this version cannot read.
    """
    content = open_folder(store).read("manifest.json")
    return None if content is None else parse_manifest(store, content)


def parse_manifest(store: Path | str, content: bytes) -> Manifest:
    """The manifest in a file's bytes; FeatureStoreError where it cannot be one."""
    where = f"{store}/manifest.json"
    try:
        fields = json.loads(content)
        if fields.get("format_version") != FORMAT_VERSION:
            raise FeatureStoreError(
                f"{where}: format version {fields.get('format_version')!r}, this version"
                f" reads {FORMAT_VERSION}; make the features again with `critic featurize`"
            )
        fields["units"] = [Unit(**unit) for unit in fields["units"]]
        return Manifest(**fields)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FeatureStoreError(
            f"{where}: damaged ({error}); `{repair_command(store)}` with the same config writes it"
            " again and keeps the finished units"
        ) from error


def lost_files(store: Path | str, manifest: Manifest) -> dict[str, str]:
    """Files of a finished store that are missing or of another size, and which of the two."""
    sizes = open_folder(store).sizes("units")
    return {
        name: "missing" if name not in sizes else f"{sizes[name]:,} bytes of {file['bytes']:,}"
        for name, file in manifest.files.items()
        if sizes.get(name) != file["bytes"]
    }


def repair_command(store: Path | str) -> str:
    """What mends a damaged store; its folder is called as its split is, or data-... of a file."""
    folder, _, split = str(store).rstrip("/").rpartition("/")
    if folder.endswith("random-backbone"):
        return f"rm -r {store}` and then `critic eval --baseline random-backbone"
    if split.startswith("data-"):
        return "critic score FILE --out FILE --repair` or `critic eval --data FILE --repair"
    return f"critic featurize --split {split} --repair"
