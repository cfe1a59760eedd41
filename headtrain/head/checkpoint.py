"""A trained head on disk: head.safetensors (weights, normaliser) and head.json (its record)."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from featurize.arrays import Floats32
from featurize.errors import CriticError
from featurize.io.files import atomic_path, write_json
from featurize.io.remote import RemoteFolder, open_folder
from featurize.store import FeatureStore
from headtrain.features.inputs import ROWS_AT_ONCE, choose_columns, read_rows
from headtrain.head.distance import DISTANCE_FILE, Distance
from headtrain.head.model import EnsembleModel
from headtrain.head.spec import HeadSpec
from headtrain.metrics.calibration import Decision
from headtrain.pairs.plan import TrainingData
from headtrain.pairs.rows import Holdout

FORMAT_VERSION = 1
WEIGHTS_FILE = "head.safetensors"
RECORD_FILE = "head.json"

logger = logging.getLogger(__name__)


class CheckpointError(CriticError):
    """A checkpoint that is missing, damaged or incompatible, or that cannot be written."""


@dataclass(frozen=True, kw_only=True)
class HeadRecord(HeadSpec):
    """The content of head.json: the shape of the head, and how it was made."""

    recipe_fingerprint: str
    """Recipe of the features; a store with another recipe is refused."""
    store_fingerprint: str
    """Store the head was trained on."""
    step: int
    """Number of optimizer steps."""
    metrics: dict[str, float]
    """Validation metrics at that step."""
    config: dict[str, Any]
    """The resolved configuration of the run."""
    tracking_run_id: str | None
    """MLflow run of the training."""
    num_members: int = 1
    """Heads of an ensemble, stacked in the weights; its value is the mean of theirs."""
    selection: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How this head was selected among those of its run or sweep."""
    train_holdout: dict[str, Any] | None = None
    """The train problems it was not trained on (see Holdout)."""
    pairs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its training data: numbers of pairs, problems and samples, and a checksum of the pairs."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions of the libraries that made it."""
    fitted: dict[str, Any] | None = None
    """Calibration and threshold (see Decision); None for an intermediate checkpoint."""
    folder: str = ""
    """Working folder of the run, from which relative paths in `config` start."""
    weights_checksum: str = ""
    """SHA-256 of head.safetensors: the two files belong together."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def for_run(
        cls,
        spec: HeadSpec,
        store: FeatureStore,
        data: TrainingData,
        *,
        config: dict[str, Any],
        tracking_run_id: str | None,
    ) -> Self:
        """Fill the fields that all heads of a run have in common."""
        return cls(
            **dataclasses.asdict(spec),
            recipe_fingerprint=store.manifest.recipe_fingerprint,
            store_fingerprint=store.manifest.fingerprint,
            step=0,
            metrics={},
            config=config,
            tracking_run_id=tracking_run_id,
            folder=str(Path.cwd()),
            train_holdout=dataclasses.asdict(data.holdout) if data.holdout else None,
            pairs={**data.describe(), "checksum": data.checksum()},
        )

    @property
    def holdout(self) -> Holdout | None:
        """The train problems that were held out, None if there were none."""
        return Holdout(**self.train_holdout) if self.train_holdout else None

    @property
    def is_finished(self) -> bool:
        """Whether its run finished; until then another head may become the best."""
        return self.fitted is not None

    @property
    def decision(self) -> Decision | None:
        """The calibration and threshold fitted on train; None for an intermediate checkpoint."""
        return Decision.from_dict(self.fitted) if self.fitted else None


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """A loaded head, ready to score."""

    model: EnsembleModel
    record: HeadRecord
    path: str

    def check(self, store: FeatureStore) -> None:
        """Check that a store has the features that the head was trained on.

        Raises:
            CheckpointError: its recipe or the widths of its tensors differ.
        """
        wanted, found = self.record.recipe_fingerprint, store.manifest.recipe_fingerprint
        if wanted != found:
            raise CheckpointError(
                f"{self.path} was trained on features of recipe {wanted}, but {store.path} holds "
                f"features of recipe {found}; featurize with the head's config or train a new head"
            )
        columns = choose_columns(store, tuple(self.record.tensors), self.record.likelihood)
        if columns != self.record.columns:
            raise CheckpointError(
                f"{self.path} reads tensors of widths {self.record.columns.widths}, but "
                f"{store.path} has {columns.widths}; featurize again or train a new head"
            )

    @overload
    def score(self, inputs: FeatureStore) -> Floats32: ...
    @overload
    def score(self, inputs: torch.Tensor) -> torch.Tensor: ...

    def score(self, inputs: FeatureStore | torch.Tensor) -> Floats32 | torch.Tensor:
        """Compute values of a whole store, [samples] in table order, or of [..., width] inputs.

        All samples are scored, with or without a label.
        """
        return self._of_values(inputs, lambda values: values.mean(0))

    @overload
    def spread(self, inputs: FeatureStore) -> Floats32: ...
    @overload
    def spread(self, inputs: torch.Tensor) -> torch.Tensor: ...

    def spread(self, inputs: FeatureStore | torch.Tensor) -> Floats32 | torch.Tensor:
        """Compute the standard deviation over the members of an ensemble; 0 for a single head.

        Inputs and shapes are those of `score`.
        """
        return self._of_values(inputs, lambda values: values.std(0, correction=0))

    def read_distance(self) -> Distance | None:
        """Read the distance to its train features; None if it was not saved with this head.

        Raises:
            CriticError: the file is damaged or of another head.
        """
        content = open_folder(self.path).read(DISTANCE_FILE)
        if content is None:
            return None
        checksum, width = self.record.weights_checksum, self.record.columns.width
        return Distance.read(f"{self.path}/{DISTANCE_FILE}", content, checksum, width)

    def distances(self, store: FeatureStore, distance: Distance) -> Floats32:
        """Measure the distance to train of a whole store, [samples] in table order."""
        return self._over_store(
            store, lambda features: torch.from_numpy(distance.measure(features.numpy())).float()
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.buffers()).device

    def score_prefixes(self, store: FeatureStore, num_kept: int) -> Floats32:
        """Compute values of the first `num_kept` segments of outputs, [samples] in table order.

        Raises:
            CheckpointError: they cannot be had from the store's segments.
        """
        if (why := self.record.why_no_prefixes(store)) is not None:
            raise CheckpointError(f"{self.path}: no values of prefixes: {why}")
        return self._over_store(store, self.score, num_kept)

    def _of_values(
        self, inputs: FeatureStore | torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]
    ) -> Floats32 | torch.Tensor:
        """Reduce the members' values, [members, ..., 1], of a whole store or of inputs."""

        def compute(features: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                values = self.model.member_values(features.to(self.device, torch.float32))
            return reduce(values).squeeze(-1).cpu()

        if isinstance(inputs, FeatureStore):
            return self._over_store(inputs, compute)
        return compute(inputs)

    def _over_store(
        self,
        store: FeatureStore,
        compute: Callable[[torch.Tensor], torch.Tensor],
        num_kept: int | None = None,
    ) -> Floats32:
        """Compute a number for each feature row once, and return that of each sample."""
        self.check(store)
        feature_rows, table_rows, samples = np.unique(
            store.samples["feature_row"].to_numpy(), return_index=True, return_inverse=True
        )
        values = np.empty(len(feature_rows), dtype=np.float32)
        for start in range(0, len(feature_rows), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            features = read_rows(
                store, self.record.columns, feature_rows[chunk], table_rows[chunk], num_kept
            )
            values[chunk] = compute(features).numpy()
        return values[samples]


def write_head(folder: Path, model: EnsembleModel, record: HeadRecord) -> Path:
    """Write the two files, the JSON last; a mismatched pair is refused when read.

    A distance to train saved with an earlier head of this folder is deleted.

    Raises:
        CheckpointError: a weight is NaN or inf.
    """
    weights = model.saved_state()
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"weight {name} holds NaN or inf at step {record.step}, so nothing was saved; "
                "lower training.value_head_learning_rate or set training.max_grad_norm"
            )
    content = safetensors.torch.save(weights)
    (folder / DISTANCE_FILE).unlink(missing_ok=True)  # it was that of the weights before
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(content)
    record = dataclasses.replace(
        record,
        versions=_library_versions(),
        weights_checksum=hashlib.sha256(content).hexdigest(),
    )
    write_json(folder / RECORD_FILE, dataclasses.asdict(record))
    return folder


def write_decision(folder: Path, decision: Decision) -> None:
    """Add the calibration and threshold to a head's head.json."""
    record = dataclasses.replace(_read_record(str(folder)), fitted=dataclasses.asdict(decision))
    write_json(folder / RECORD_FILE, dataclasses.asdict(record))


def load_head(path: Path | str, device: torch.device | str = "cpu") -> TrainedHead:
    """Read a head from its folder, or the best (else the final) head of a run's folder.

    `path` may be any URI that fsspec supports.

    Raises:
        CheckpointError: there is no head, or it is damaged.
    """
    folder = find_head(str(path).rstrip("/"))
    record = _read_record(folder)
    content = open_folder(folder).read(WEIGHTS_FILE) or b""
    if hashlib.sha256(content).hexdigest() != record.weights_checksum:
        raise CheckpointError(
            f"{folder}: {WEIGHTS_FILE} is not the file {RECORD_FILE} was written with; "
            "rerun `critic train-head`, or take another checkpoint of the run"
        )
    model = EnsembleModel.of(record, record.num_members)
    try:
        model.load_saved(safetensors.torch.load(content))  # no pickle: bytes of tensors alone
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: damaged ({reason}); train the head again") from error
    return TrainedHead(model=model.to(device).eval(), record=record, path=folder)


def check_upload_uri(uri: str) -> None:
    """Check that the filesystem of a URI can be opened, before a run.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        RemoteFolder(uri)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint.s3_uri {uri!r} cannot be opened ({error.__cause__}); for s3:// install"
            " critic[s3]"
        ) from error


def upload_head(folder: Path, uri: str) -> str:
    """Copy a head to `<uri>/<run's folder>/<head's folder>`, the JSON last; returns the target.

    It returns only after the copy is complete.
    """
    run = folder.absolute().parent.name  # keeps apart runs that share a bucket
    target = f"{uri.rstrip('/')}/{run}/{folder.name}"
    remote = RemoteFolder(target)
    names = (WEIGHTS_FILE, *([DISTANCE_FILE] if (folder / DISTANCE_FILE).exists() else []))
    for name in (*names, RECORD_FILE):
        remote.upload(folder / name, name)
    logger.info("copied %s to %s", folder, target)
    return target


def find_head(path: str) -> str:
    """Return the folder that `load_head` reads; a CheckpointError if there is no head."""
    if not path:
        raise CheckpointError("the path of a head is ''; name its folder, or leave the option out")
    if path.endswith((WEIGHTS_FILE, RECORD_FILE)):
        path = path.rpartition("/")[0] or "."
    for folder in (path, f"{path}/best", f"{path}/final"):
        if open_folder(folder).read(RECORD_FILE) is not None:
            return folder
    raise CheckpointError(f"{path}: holds no {RECORD_FILE}; run `critic train-head` first")


def _read_record(folder: str) -> HeadRecord:
    path = f"{folder}/{RECORD_FILE}"
    try:
        fields = json.loads(open_folder(folder).read(RECORD_FILE) or b"")
        if fields["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: format version {fields['format_version']!r}, this version reads "
                f"{FORMAT_VERSION}; train the head again"
            )
        return HeadRecord(**fields)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); train the head again") from error


@functools.cache  # reading them takes ten milliseconds
def _library_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "numpy", "safetensors")}
