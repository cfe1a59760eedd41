"""The folder of a sweep: what the sweep is, whether it is finished, and what it leaves.

run.json       what the sweep is made of, written first; that it is finished, written last
stacks/        heads that are trained, while others are not (see kept.py)
sweep.json     every point;  winner/  the best head
writer.lock    keeps a second sweep out while one trains (featurize/io/lock.py)
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurize.io.files import read_json
from headtrain.head.checkpoint import CheckpointError, load_head
from headtrain.sweep.result import SweepResult
from headtrain.training.run_file import RunFile

FORMAT_VERSION = 1
RESULT_FILE, WINNER, STACKS = "sweep.json", "winner", "stacks"
FIGURE_FILE = "accuracy.png"

logger = logging.getLogger(__name__)


class SweepFolder:
    """Reads and writes one sweep's folder; every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RunFile(path, FORMAT_VERSION)
        self.winner = path / WINNER
        self.stacks = path / STACKS
        self.result_file = path / RESULT_FILE

    def find(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """run.json of this very sweep; None where there is none, or another's."""
        try:
            run = self.file.read()
        except ValueError as error:
            logger.warning("%s", error)
            return None
        return run if run is not None and self.file.is_of(run, identity) else None

    def finished(self, identity: Mapping[str, Any]) -> SweepResult | None:
        """What this very sweep found; None where it has not ended, or that or its head is gone."""
        run = self.find(identity)
        if run is None or not run["is_finished"]:
            return None
        try:
            load_head(self.winner)
            return SweepResult.from_dict(read_json(self.result_file))
        except (CheckpointError, OSError, ValueError):
            return None

    def go_on(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return run.json of this very sweep to go on with, of a new one where nothing is left."""
        run = self.find(identity)
        if run is not None and not run["is_finished"]:
            return run
        if run is not None:
            logger.warning("%s: the finished sweep is not whole; sweeping again", self.path)
        return self.begin(identity)

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json of a new sweep over that of another.

        Stacks of the other stay: those that are the same in both are not trained again.
        """
        run = self.file.begin(identity, is_finished=False)
        # What the other found would stand for what this one has not found yet.
        for file in (self.result_file, self.path / FIGURE_FILE):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.winner, ignore_errors=True)
        return run

    def clear(self) -> None:
        """Delete what would be gone on with."""
        self.file.remove()
        shutil.rmtree(self.stacks, ignore_errors=True)
