"""The feature store: stage 1 writes it, stage 2 reads it, and nothing else knows its format.

A store is a folder (see docs/format.md):

    plan.json                 written first: recipe, fingerprint, number of units
    units/00000.safetensors   one tensor [feature_rows, width] per name, e.g. `mean.12`
    units/00000.parquet       one row per sample; `feature_row` is its row in the tensors
    units/00000.json          receipt, written last: sizes and checksums of the two
    manifest.json             written when every unit is finished: what readers open
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurize.errors import FeatureStoreError
    from featurize.io.lock import sole_writer
    from featurize.io.remote import user_cache_dir
    from featurize.store.format import (
        ANSWER_COLUMNS,
        LIKELIHOOD_COLUMNS,
        SAMPLE_SCHEMA,
        SEGMENT_LOGPROB,
        SEGMENT_TOKENS,
        UnitFeatures,
        is_of_segments,
        segments_name,
        stored_as,
    )
    from featurize.store.manifest import Manifest, Unit, lost_files, read_manifest, repair_command
    from featurize.store.planned_pairs import PlannedPairs, copy_marks, mark_pairs, read_pairs
    from featurize.store.reader import FeatureStore
    from featurize.store.remote import RemoteStoreWriter, open_writer
    from featurize.store.statements import (
        SHARED_IDS_REMEDY,
        SharedIds,
        find_shared_ids,
        mark_statements,
        statement_codes,
    )
    from featurize.store.writer import StoreWriter

_HOMES = {
    "featurize.errors": ("FeatureStoreError",),
    "featurize.io.lock": ("sole_writer",),
    "featurize.io.remote": ("user_cache_dir",),
    "featurize.store.format": (
        *("ANSWER_COLUMNS", "LIKELIHOOD_COLUMNS", "SAMPLE_SCHEMA", "UnitFeatures"),
        *("SEGMENT_LOGPROB", "SEGMENT_TOKENS", "is_of_segments", "segments_name", "stored_as"),
    ),
    "featurize.store.manifest": (
        *("Manifest", "Unit", "lost_files", "read_manifest", "repair_command"),
    ),
    "featurize.store.planned_pairs": ("PlannedPairs", "copy_marks", "mark_pairs", "read_pairs"),
    "featurize.store.reader": ("FeatureStore",),
    "featurize.store.remote": ("RemoteStoreWriter", "open_writer"),
    "featurize.store.statements": (
        *(
            "SHARED_IDS_REMEDY",
            "SharedIds",
            "find_shared_ids",
            "mark_statements",
            "statement_codes",
        ),
    ),
    "featurize.store.writer": ("StoreWriter",),
}

__all__ = [
    "ANSWER_COLUMNS",
    "LIKELIHOOD_COLUMNS",
    "SAMPLE_SCHEMA",
    "SEGMENT_LOGPROB",
    "SEGMENT_TOKENS",
    "SHARED_IDS_REMEDY",
    "FeatureStore",
    "FeatureStoreError",
    "Manifest",
    "PlannedPairs",
    "RemoteStoreWriter",
    "SharedIds",
    "StoreWriter",
    "Unit",
    "UnitFeatures",
    "copy_marks",
    "find_shared_ids",
    "is_of_segments",
    "lost_files",
    "mark_pairs",
    "mark_statements",
    "open_writer",
    "read_manifest",
    "read_pairs",
    "repair_command",
    "segments_name",
    "sole_writer",
    "statement_codes",
    "stored_as",
    "user_cache_dir",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use: reading a manifest needs no torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
