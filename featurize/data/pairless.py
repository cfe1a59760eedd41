"""Why no pair can be made of a dataset, said before anything is computed."""

import numpy as np
import pyarrow.compute as pc

from featurize.data.index import DatasetIndex
from featurize.data.verdicts import possible_labels
from featurize.errors import shorten


def why_no_pairs(index: DatasetIndex) -> str | None:
    """Say why no problem has a correct and an incorrect sample; None if one has both."""
    labels = index.table["is_correct"]
    if labels.null_count == len(index):
        return (
            f"none of the {len(index):,} samples has a label, so no pair can be made of them; name"
            f" its column with critic prepare columns --map is_correct=...{_columns(index)}"
        )
    if _has_both(index):
        return None
    counts = {value: pc.sum(pc.equal(labels, value)).as_py() for value in (True, False)}
    return (
        "no problem has a correct and an incorrect sample in one language, so no pair can be made"
        f" of the {counts[True]:,} correct and {counts[False]:,} incorrect ones; check problem_id,"
        " is_correct and metadata.language"
    )


def _has_both(index: DatasetIndex) -> bool:
    """Whether a problem has both labels in one language."""
    codes = [
        index.table[name].combine_chunks().indices.fill_null(-1).to_numpy().astype(np.int64)
        for name in ("problem_id", "language")
    ]
    groups = codes[0] * (codes[1].max(initial=0) + 2) + codes[1] + 1
    labels = index.table["is_correct"].fill_null(False).to_numpy().astype(bool)
    is_known = index.table["is_correct"].is_valid().to_numpy()
    return bool(np.isin(groups[labels], groups[is_known & ~labels]).any())


def _columns(index: DatasetIndex) -> str:
    """The columns of the first row that may have the label."""
    found = possible_labels(index.read_raw(0))
    shown = ", ".join(f"{name!r} is {shorten(value)}" for name, value in found.items())
    return f" ({index.location(0)}: {shown})" if shown else ""
