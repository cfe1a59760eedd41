"""The feature store: stage 1 writes it, stage 2 reads it, and nothing else knows its format.

A store is a folder (see docs/format.md):

    plan.json                 written first: recipe, fingerprint, number of units
    units/00000.safetensors   one tensor [feature_rows, width] per name, e.g. `mean.12`
    units/00000.parquet       one row per sample; `feature_row` is its row in the tensors
    units/00000.json          receipt, written last: sizes and checksums of the two
    manifest.json             written when every unit is finished: what readers open
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurize.store.reader import FeatureStore

__all__ = ["FeatureStore"]


def __getattr__(name: str) -> Any:
    """Import the reader on first use: reading a manifest needs no torch."""
    if name != "FeatureStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from featurize.store.reader import FeatureStore

    return FeatureStore
