"""run.json: what a run is made of, written first, and what came of it, written last."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurize.io.files import read_json, write_json


class RunFile:
    """Reads and writes run.json of a folder; it appears whole or not at all."""

    def __init__(self, folder: Path, format_version: int) -> None:
        self.path = folder / "run.json"
        self._format_version = format_version

    def read(self) -> dict[str, Any] | None:
        """What is there; None where nothing is.

        Raises:
            ValueError: it is damaged.
        """
        return read_json(self.path) if self.path.exists() else None

    def is_of(self, run: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
        """Whether `run`, as it was read, is made of `identity`."""
        is_readable = run.get("format_version") == self._format_version
        return is_readable and run.get("identity") == as_read(identity)

    def begin(self, identity: Mapping[str, Any], **outcome: Any) -> dict[str, Any]:
        """Write that of a new run, with what there is of its outcome."""
        run = {
            "format_version": self._format_version,
            "identity": as_read(identity),
            "tracking_run_id": None,
            **outcome,
        }
        write_json(self.path, run)
        return run

    def update(self, run: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Write `run` with other fields."""
        updated = {**run, **fields}
        write_json(self.path, updated)
        return updated

    def remove(self) -> None:
        """Leave no run."""
        self.path.unlink(missing_ok=True)


def as_read(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is read back."""
    content: dict[str, Any] = json.loads(json.dumps(identity))
    return content
