"""Writes an audit: the whole of it as JSON, pictures, and the problems to exclude."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from featurize.data.audit import figures
from featurize.data.audit.report import Audit, CountedTokens
from featurize.data.index import DatasetIndex
from featurize.io.files import atomic_path, write_json


def write_audit(
    folder: Path, audit: Audit, index: DatasetIndex, tokens: CountedTokens | None
) -> list[Path]:
    """Write all files of an audit; returns what was written, audit.json first."""
    json_path, ids_path = folder / "audit.json", folder / "overlapping.txt"
    write_json(json_path, audit.to_json())
    written = [json_path]
    if audit.overlap.against is not None:
        with atomic_path(ids_path) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in audit.overlap.shared_ids))
        written.append(ids_path)
    return written + _draw(folder, audit, index, tokens)


def _draw(
    folder: Path, audit: Audit, index: DatasetIndex, tokens: CountedTokens | None
) -> list[Path]:
    paths = {
        name: folder / f"{name}.png" for name in ("lengths", "labels", "pairs", "overlap", "tokens")
    }
    rows = np.flatnonzero(pc.is_valid(index.table["is_correct"]).to_numpy())
    lengths = index.table["output_chars"].to_numpy()
    if tokens is not None:
        lengths = tokens.counts.cut(tokens.max_length, tokens.prompt_limit).outputs
    labels = pc.fill_null(index.table["is_correct"], False).to_numpy()
    if len(rows):
        figures.draw_lengths(
            paths["lengths"], lengths[rows].astype(np.int64), labels[rows], audit.lengths[-1]
        )
        figures.draw_labels(paths["labels"], audit.labels)
    if audit.labels.num_pairs:
        figures.draw_pairs(paths["pairs"], audit.labels)
    if audit.overlap.shared or audit.overlap.within:
        figures.draw_overlap(paths["overlap"], audit.overlap)
    if audit.tokens is not None:
        figures.draw_tokens(paths["tokens"], audit.tokens)
    return [path for path in paths.values() if path.exists()]
