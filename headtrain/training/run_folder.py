"""The folder of one training run: what it is, where it stands, and how to go on from there.

run.json                      what the run is made of, written first; its result, written last
step-00000200/                a checkpoint to go on from: the head, the optimizer, state.json last
best/  final/                 heads to use
writer.lock                   keeps a second run out while one trains (featurize/io/lock.py)
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from featurize.io.files import atomic_path, checksum, read_json, write_json
from headtrain.head.checkpoint import RECORD_FILE, WEIGHTS_FILE, CheckpointError, load_head
from headtrain.training.optimizer import StackedAdamW
from headtrain.training.run_file import RunFile, as_read

FORMAT_VERSION = 2
STATE_FILE, OPTIMIZER_FILE = "state.json", "optimizer.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best head so far."""

    step: int
    over_problems: float
    """Validation pairwise accuracy, mean over problems: what best means."""
    over_pairs: float
    holdout_over_problems: float | None = None
    """The same head on the train problems that were held out, which chose nothing."""
    holdout_over_pairs: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after `step` optimizer steps, but for its tensors.

    There is no state of random generators: every step seeds its own (see loop.py).
    """

    step: int
    seconds: float
    best: Best | None
    num_validations: int
    num_since_best: int
    """Validations since the best one, for early stopping."""
    unwritten: list[tuple[int, dict[str, float]]]
    """What the tracker had not yet written: a run that goes on tells it again."""


class RunFolder:
    """Reads and writes one run's folder; every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RunFile(path, FORMAT_VERSION)
        self.best = path / "best"
        self.final = path / "final"

    def find(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return run.json of this very run; None when the folder holds no run.

        Raises:
            CheckpointError: the folder holds a run of other settings or data.
        """
        run = self.file.read()
        if run is None or self.file.is_of(run, identity):
            return run
        changes = ", ".join(_changes(run.get("identity", {}), as_read(identity))) or "its format"
        raise CheckpointError(
            f"{self.path}: holds another run (changed: {changes}); give --overwrite to "
            "replace it, or another checkpoint.save_dir to keep both"
        )

    def finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result of this very run; None where it has not ended or its heads are gone.

        Raises:
            CheckpointError: the folder holds a run of other settings or data.
        """
        run = self.find(identity)
        result: dict[str, Any] | None = run["result"] if run else None
        return result if result is not None and self._has_all_heads(result) else None

    def go_on(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return run.json of this very run to go on with, of a new one where nothing is left of it.

        Raises:
            CheckpointError: the folder holds a run of other settings or data.
        """
        run = self.find(identity)
        if run is not None and run["result"] is None:
            return run
        if run is not None:
            logger.warning("%s: the heads of the finished run are gone; training again", self.path)
        return self.begin(identity)

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Clear the folder and write run.json of a new run."""
        self.clear()
        return self.file.begin(identity, result=None)

    def clear(self) -> None:
        """Delete what a run writes, and nothing else."""
        self.file.remove()  # first: what is half deleted is no run
        for folder in (*self._step_folders(), self.best, self.final):
            shutil.rmtree(folder, ignore_errors=True)

    def step_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.path / f"step-{step:08d}"

    def write_state(self, state: RunState, optimizer: StackedAdamW) -> None:
        """Complete the checkpoint of a step, whose head is already there."""
        folder = self.step_folder(state.step)
        with atomic_path(folder / OPTIMIZER_FILE) as temporary:
            # NOTE: safetensors' own save_file leaves a file of its own behind when it is killed.
            temporary.write_bytes(save(optimizer.state()))
        checksums = {name: checksum(folder / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        write_json(folder / STATE_FILE, {**dataclasses.asdict(state), "checksums": checksums})

    def latest_state(self) -> RunState | None:
        """The newest whole checkpoint, None to start from the beginning."""
        for folder in reversed(self._step_folders()):
            try:
                fields = read_json(folder / STATE_FILE)
                checksums = fields.pop("checksums")
                if all(checksum(folder / name) == value for name, value in checksums.items()):
                    best = Best(**fields["best"]) if fields["best"] else None
                    return RunState(**{**fields, "best": best})
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("%s is not whole and is passed over (%s)", folder, error)
            else:
                logger.warning("%s is not whole and is passed over", folder)
        return None

    def restore(self, state: RunState, model: nn.Module, optimizer: StackedAdamW) -> None:
        """Put the weights and the optimizer back as they were after `state.step`."""
        folder = self.step_folder(state.step)
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
            optimizer.load(load_file(folder / OPTIMIZER_FILE))
        except (SafetensorError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{folder}: damaged ({reason}); give overwrite to train again"
            ) from error

    def prune(self, step: int, limit: int | None) -> None:
        """Keep the newest step checkpoints up to `step`; best and final stay.

        Later ones are torn or left over from a start that was given up, and go.
        """
        newest = self.step_folder(step)
        folders = self._step_folders()
        usable = [folder for folder in folders if folder <= newest]
        kept = usable if limit is None else usable[-limit:]
        for folder in folders:
            if folder not in kept:
                # NOTE: the state goes first: what is half deleted is no checkpoint.
                (folder / STATE_FILE).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    def _has_all_heads(self, result: Mapping[str, Any]) -> bool:
        """Whether the heads a finished run left are still there and whole."""
        try:
            if result["has_best"]:
                load_head(self.best)
            if result["has_final"]:
                load_head(self.final)
        except (CheckpointError, OSError):
            return False
        return True

    def _step_folders(self) -> list[Path]:
        return sorted(self.path.glob("step-" + "[0-9]" * 8))


def has_head(folder: Path) -> bool:
    """Whether both files of a head are there."""
    return (folder / WEIGHTS_FILE).exists() and (folder / RECORD_FILE).exists()


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs, as `training.dropout 0.3 -> 0.1`."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += _changes(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} {before} -> {after}")
    return changes
