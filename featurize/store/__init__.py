"""The feature store: what stage 1 writes, stage 2 reads, and the only place that knows its format.

A store is a folder (see docs/format.md):

    plan.json                 what is being made, written first: recipe, fingerprint, units
    units/00000.safetensors   one tensor [feature_rows, width] per name, e.g. `mean.12`
    units/00000.parquet       one row a sample; `feature_row` points into the tensors
    units/00000.json          receipt, written last: sizes and checksums of the two
    manifest.json             written when every unit is there: what readers open
"""

from featurize.errors import FeatureStoreError
from featurize.io.lock import sole_writer
from featurize.io.remote import user_cache_dir
from featurize.store.format import (
    LIKELIHOOD_COLUMNS,
    SAMPLE_SCHEMA,
    Manifest,
    Unit,
    UnitFeatures,
    lost_files,
    read_manifest,
    repair_command,
)
from featurize.store.planned_pairs import PlannedPairs, copy_marks, mark_pairs, read_pairs
from featurize.store.reader import FeatureStore
from featurize.store.remote import RemoteStoreWriter
from featurize.store.writer import StoreWriter

__all__ = [
    "LIKELIHOOD_COLUMNS",
    "SAMPLE_SCHEMA",
    "FeatureStore",
    "FeatureStoreError",
    "Manifest",
    "PlannedPairs",
    "RemoteStoreWriter",
    "StoreWriter",
    "Unit",
    "UnitFeatures",
    "copy_marks",
    "lost_files",
    "mark_pairs",
    "read_manifest",
    "read_pairs",
    "repair_command",
    "sole_writer",
    "user_cache_dir",
]
