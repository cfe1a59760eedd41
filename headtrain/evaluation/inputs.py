"""What an evaluation was made from, recorded so that a finished one is not computed again.

Beside `valid.json`, the file `valid.inputs.json` has a digest of all inputs and the checksums of
the files that were written. Checking it reads small files only and imports no torch.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurize.io.files import checksum, digest, read_json, write_json


def read_inputs(head: Path, stores: Mapping[str, Path], **others: Any) -> dict[str, Any] | None:
    """Describe what an evaluation and its report depend on; equal inputs give equal files.

    Args:
        head: folder of the head; head.json has the checksum of the weights.
        stores: folders of the feature stores, by split.
        others: plain values, as JSON has them: settings, seed, title, the baseline, and size and
            time of the dataset's files (`find_sources`), which may be gone, and of the sweep.

    Returns:
        None if the head or a store is not there, or is not local.
    """
    try:
        return {
            "head": checksum(head / "head.json"),
            "stores": {name: checksum(path / "manifest.json") for name, path in stores.items()},
            "version": importlib.metadata.version("critic"),
            **others,
        }
    except OSError:
        return None


def record_inputs(evaluation: Path, inputs: Mapping[str, Any], written: Sequence[Path]) -> None:
    """Record what an evaluation was made from, and the files written, its JSON among them."""
    files = {str(path.relative_to(evaluation.parent)): checksum(path) for path in written}
    write_json(_record_path(evaluation), {"inputs": digest(inputs), "files": files})


def is_up_to_date(evaluation: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the evaluation was made from these inputs and its files are unchanged."""
    try:
        record = read_json(_record_path(evaluation))
        files = {name: checksum(evaluation.parent / name) for name in record["files"]}
        return bool(
            evaluation.name in files and record == {"inputs": digest(inputs), "files": files}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no record, or a damaged one


def _record_path(evaluation: Path) -> Path:
    return evaluation.with_name(f"{evaluation.stem}.inputs.json")
