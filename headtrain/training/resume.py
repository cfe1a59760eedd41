"""The folder of a training run, from which the run resumes after it was killed.

run.json                      what determines the run, written first; its result, written last
step-00000200/                a checkpoint to resume from: head and optimizer; state.json last
best/  final/                 heads to use
new/                          a run that will replace this one (Replacement)
writer.lock                   held while a run trains (featurize/io/files.py)
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from featurize.io.files import (
    atomic_path,
    checksum,
    read_json,
    read_object,
    sole_writer,
    write_json,
)
from headtrain.head.checkpoint import RECORD_FILE, WEIGHTS_FILE, CheckpointError, load_head
from headtrain.settings import TrainingSettings
from headtrain.training.loop import BatchedAdamW

FORMAT_VERSION = 2
STATE_FILE, OPTIMIZER_FILE = "state.json", "optimizer.safetensors"
RUN_FILE, SWAP_FILE = "run.json", "swap.json"

_ADDED_SETTINGS = {
    "value_head_width": None,
    "normaliser": "standardize",
    "contrast": "mean",
    "contrast_shrinkage": None,
    "segment_value": "linear",
    "prefixes": None,
    "centre": "none",
}
"""Settings of later versions, with the values that earlier versions used."""

logger = logging.getLogger(__name__)


def trained_settings(training: TrainingSettings) -> dict[str, Any]:
    """Return the settings that determine the weights of a head."""
    fields = dataclasses.asdict(training)
    for name in ("log_interval", "max_feature_memory_gb"):
        del fields[name]
    # NOTE: added settings are left out at their old values, so that earlier runs are recognised.
    return {
        name: value
        for name, value in fields.items()
        if name not in _ADDED_SETTINGS or value != _ADDED_SETTINGS[name]
    }


class RunFile:
    """run.json of a folder: the identity of a run (all that determines it), and its outcome."""

    def __init__(self, folder: Path, format_version: int) -> None:
        self.path = folder / RUN_FILE
        self._format_version = format_version

    def read(self) -> dict[str, Any] | None:
        """Return the content, or None if there is no file.

        Raises:
            ValueError: it is damaged.
        """
        return read_object(self.path) if self.path.exists() else None

    def is_of(self, run: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
        """Whether the content `run` belongs to the run of this identity."""
        is_readable = run.get("format_version") == self._format_version
        return is_readable and run.get("identity") == _as_json(identity)

    def begin(self, identity: Mapping[str, Any], **outcome: Any) -> dict[str, Any]:
        """Write and return the content of a new run."""
        run = {
            "format_version": self._format_version,
            "identity": _as_json(identity),
            "tracking_run_id": None,
        }
        return self.update(run, **outcome)

    def update(self, run: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Write and return `run` with other fields."""
        updated = {**run, **fields}
        write_json(self.path, updated)
        return updated


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best head so far."""

    step: int
    over_problems: float
    """Pairwise accuracy on the selecting set, mean over problems: the criterion."""
    over_pairs: float
    holdout_over_problems: float | None = None
    """Accuracy of the same head on the train problems held out."""
    holdout_over_pairs: float | None = None
    train_over_problems: float | None = None
    """Accuracy of the same head on a subset of its train problems, without dropout."""
    train_over_pairs: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run after `step` optimizer steps, apart from its tensors.

    It needs no state of random generators: every step derives its own seed.
    """

    step: int = 0
    seconds: float = 0.0
    best: Best | None = None
    num_validations: int = 0
    num_since_best: int = 0
    """Validations since the best one, for early stopping."""
    unwritten: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    """Metrics that the tracker has not written yet; a resumed run logs them again."""


class RunFolder:
    """Reads and writes the folder of a run; every file is written atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RunFile(path, FORMAT_VERSION)
        self.best = path / "best"
        self.final = path / "final"

    def finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result of this run; None if it has not finished or a head is missing.

        Raises:
            CheckpointError: the folder holds another run.
        """
        run = self._find(identity)
        result: dict[str, Any] | None = run["result"] if run else None
        return result if result is not None and self._has_all_heads(result) else None

    @property
    def is_used(self) -> bool:
        """Whether an earlier run has left a head or a checkpoint."""
        return any(folder.exists() for folder in (self.best, self.final, *self._step_folders()))

    def unfinished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return run.json of this run if it can be resumed.

        Raises:
            CheckpointError: the folder holds another run.
        """
        run = self._find(identity)
        if run is not None and run["result"] is not None:
            logger.warning("%s: heads of the finished run are missing; training again", self.path)
            return None
        return run

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Delete what an earlier run wrote, and write run.json of a new one."""
        self.file.path.unlink(missing_ok=True)  # first, so that a kill does not leave half a run
        for folder in (*self._step_folders(), self.best, self.final):
            shutil.rmtree(folder, ignore_errors=True)
        return self.file.begin(identity, result=None)

    def step_folder(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.path / f"step-{step:08d}"

    def write_state(self, state: RunState, optimizer: BatchedAdamW) -> None:
        """Complete the checkpoint of a step whose head has been written."""
        folder = self.step_folder(state.step)
        with atomic_path(folder / OPTIMIZER_FILE) as temporary:
            # NOTE: save_file of safetensors leaves its own temporary file behind if killed.
            temporary.write_bytes(save(optimizer.state()))
        checksums = {name: checksum(folder / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        write_json(folder / STATE_FILE, {**dataclasses.asdict(state), "checksums": checksums})

    def latest_state(self) -> RunState | None:
        """Return the newest complete checkpoint, None if there is none."""
        for folder in reversed(self._step_folders()):
            try:
                return _read_state(folder)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("%s is incomplete and is skipped (%s)", folder, error)
        return None

    def restore(self, state: RunState, model: nn.Module, optimizer: BatchedAdamW) -> None:
        """Load the weights and the optimizer of a checkpoint.

        Raises:
            CheckpointError: they do not fit the model.
        """
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
        """Keep the newest step checkpoints up to `step`, and delete later ones.

        Those are incomplete, or left over from an earlier start.
        """
        folders = self._step_folders()
        usable = [folder for folder in folders if folder <= self.step_folder(step)]
        kept = usable if limit is None else usable[-limit:]
        for folder in folders:
            if folder not in kept:
                # NOTE: the state goes first, so that a kill does not leave half a checkpoint.
                (folder / STATE_FILE).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    def _find(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        run = self.file.read()
        if run is None or self.file.is_of(run, identity):
            return run
        found = run.get("identity")
        before = found if isinstance(found, dict) else {}
        changes = ", ".join(_changes(before, _as_json(identity))) or "its format"
        raise CheckpointError(
            f"{self.path}: holds another run (changed: {changes}); give --overwrite to "
            "replace it, or another checkpoint.save_dir to keep both"
        )

    def _has_all_heads(self, result: Mapping[str, Any]) -> bool:
        """Whether the heads of a finished run can still be loaded."""
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


class Replacement:
    """A run that replaces the one in a folder: complete before anything old is deleted.

    It is built in `new/`. When it is finished, new/swap.json lists what it has made, and each of
    these takes its place in the folder, run.json last. A swap that was interrupted is completed by
    the next run.
    """

    def __init__(self, folder: Path, patterns: Sequence[str]) -> None:
        """`patterns` match all that a run of this kind writes into the folder."""
        self.folder = folder
        self.path = folder / "new"
        self._patterns = patterns

    def complete_interrupted(self) -> None:
        """Complete a swap that has begun and not ended, if there is one."""
        if (self.path / SWAP_FILE).exists():
            with sole_writer(self.folder):
                self._complete()

    def begin(self) -> Path:
        """Return the empty folder to build the new run in."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def finish(self) -> None:
        """Put the finished run in place of the old one."""
        names = [item.name for item in self._items(self.path)]
        write_json(self.path / SWAP_FILE, sorted(names))
        self._complete()

    def _complete(self) -> None:
        """Take the steps of a swap that are left."""
        names = read_json(self.path / SWAP_FILE)
        if (self.path / RUN_FILE).exists():
            (self.folder / RUN_FILE).unlink(missing_ok=True)
        for name in names:
            if (self.path / name).exists():
                self._set_aside(self.folder / name)
                (self.path / name).rename(self.folder / name)
        for item in self._items(self.folder):
            if item.name not in names:
                self._set_aside(item)
        if (self.path / RUN_FILE).exists():
            (self.path / RUN_FILE).rename(self.folder / RUN_FILE)
        shutil.rmtree(self.path)

    def _items(self, folder: Path) -> list[Path]:
        return [item for pattern in self._patterns for item in sorted(folder.glob(pattern))]

    def _set_aside(self, item: Path) -> None:
        """Move something old, which is quick, to where it is deleted in the end."""
        if item.exists():
            aside = self.path / f"old-{item.name}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.unlink(missing_ok=True)
            item.rename(aside)


def has_head(folder: Path) -> bool:
    """Whether both files of a head exist."""
    return (folder / WEIGHTS_FILE).exists() and (folder / RECORD_FILE).exists()


def _read_state(folder: Path) -> RunState:
    fields = read_object(folder / STATE_FILE)
    for name, expected in fields.pop("checksums").items():
        if checksum(folder / name) != expected:
            raise ValueError(f"{name} has another checksum")
    return RunState(**{**fields, "best": Best(**fields["best"]) if fields["best"] else None})


def _as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an identity to what is read back from JSON."""
    content: dict[str, Any] = json.loads(json.dumps(identity))
    return content


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the differences, such as `training.dropout 0.3 -> 0.1`."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += _changes(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} {before} -> {after}")
    return changes
