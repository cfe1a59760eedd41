"""The folder of a prepared dataset: one JSON Lines file a split, and summary.json written last."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurize.data.prepare.from_tests.summary import PrepareSummary, Row, count_samples
from featurize.errors import CriticError
from featurize.io.files import atomic_path, write_json

SUMMARY_FILE = "summary.json"
SPLITS = ("train", "valid", "test")


def read_finished(out_dir: Path, recipe: Mapping[str, Any]) -> PrepareSummary | None:
    """The summary of the dataset when it lies there whole; None when it has to be made.

    A dataset of another recipe is refused: it is somebody's work.
    """
    path = out_dir / SUMMARY_FILE
    try:
        summary = PrepareSummary.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CriticError(
            f"{path}: not a summary of prepared tests: choose another folder or give --overwrite"
        ) from None
    changed = [key for key, value in recipe.items() if summary.recipe.get(key) != value]
    if changed:
        key = changed[0]
        raise CriticError(
            f"{path}: holds a dataset made with {key} {summary.recipe.get(key)!r}, not "
            f"{recipe[key]!r}: choose another folder or give --overwrite"
        )
    is_whole = all(_digest_file(out_dir / name) == digest for name, digest in summary.files.items())
    return summary if is_whole else None


def _digest_file(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def write_dataset(
    out_dir: Path, rows: Mapping[str, Sequence[Row]], summary: PrepareSummary
) -> PrepareSummary:
    """Write the rows of each split, then the summary with their counts and checksums."""
    out_dir.mkdir(parents=True, exist_ok=True)
    # From here until the new summary stands the folder holds no finished dataset.
    (out_dir / SUMMARY_FILE).unlink(missing_ok=True)
    files: dict[str, str] = {}
    for split in SPLITS:
        path = out_dir / f"{split}.jsonl"
        if split not in rows:
            path.unlink(missing_ok=True)
            continue
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split]]
        content = "".join(lines).encode()
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        files[path.name] = hashlib.sha256(content).hexdigest()
    samples = {split: count_samples(chosen) for split, chosen in rows.items()}
    summary = replace(summary, samples=samples, files=files)
    write_json(out_dir / SUMMARY_FILE, summary.to_json())
    return summary
