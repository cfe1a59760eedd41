"""What an evaluation was made from, recorded so that a finished one is not computed again.

Beside `valid.json`, the file `valid.inputs.json` has a digest of all inputs and the checksums of
the files that were written. Checking it reads small files only and imports no torch.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from featurize.io.files import checksum, digest, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What an evaluation and its report depend on; equal inputs give equal files."""

    head: str
    """Checksum of head.json, which has the checksum of the weights."""

    stores: Mapping[str, str]
    """Checksum of the manifest of the feature store, by split."""

    files: Mapping[str, Sequence[tuple[str, int, int]] | None]
    """Name, size and time of change of other files, such as a split's dataset; None if gone."""

    settings: Mapping[str, Any]
    """Everything set by the user: section `evaluation`, seed, title, baseline, ..."""

    version: str
    """Version of critic."""

    @classmethod
    def read(
        cls,
        *,
        head: Path,
        stores: Mapping[str, Path],
        files: Mapping[str, Sequence[Path]],
        settings: Mapping[str, Any],
    ) -> Self | None:
        """Describe the inputs in local folders; None if the head or a store is not there.

        settings must be plain values, as JSON has them.
        """
        try:
            return cls(
                head=checksum(head / "head.json"),
                stores={name: checksum(path / "manifest.json") for name, path in stores.items()},
                files={name: _describe(paths) for name, paths in files.items()},
                settings=settings,
                version=importlib.metadata.version("critic"),
            )
        except OSError:
            return None

    @property
    def digest(self) -> str:
        """Digest of all inputs."""
        return digest(asdict(self))


def record_inputs(evaluation: Path, inputs: EvaluationInputs, written: Sequence[Path]) -> None:
    """Record what an evaluation was made from, and the files written, its JSON among them."""
    checksums = {str(path.relative_to(evaluation.parent)): checksum(path) for path in written}
    write_json(_record_path(evaluation), {"inputs": inputs.digest, "files": checksums})


def is_up_to_date(evaluation: Path, inputs: EvaluationInputs) -> bool:
    """Whether the evaluation was made from these inputs and its files are unchanged."""
    try:
        record = read_json(_record_path(evaluation))
        return bool(
            record["inputs"] == inputs.digest
            and evaluation.name in record["files"]
            and all(
                checksum(evaluation.parent / name) == wanted
                for name, wanted in record["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no record, or a damaged one


def _describe(paths: Sequence[Path]) -> list[tuple[str, int, int]] | None:
    try:
        found = [(str(path), path.stat()) for path in sorted(paths)]
    except OSError:
        return None
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _record_path(evaluation: Path) -> Path:
    return evaluation.with_name(f"{evaluation.stem}.inputs.json")
