"""The finished stacks of a sweep on disk: a rerun reads them in place of training them again.

stacks/<fingerprint>/heads.safetensors   weights of the heads, and their values of the judged halves
stacks/<fingerprint>/stack.json          all else, written last
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from featurize.arrays import Floats
from featurize.io.files import atomic_path, checksum, digest, read_json, write_json
from headtrain.sweep.points import SweepReader
from headtrain.sweep.trained import Candidate, Trained
from headtrain.training.train import make_model, trained_settings

FORMAT_VERSION = 1
WEIGHTS_FILE, STACK_FILE = "heads.safetensors", "stack.json"
VALUES = ("choose", "report", "holdout")

logger = logging.getLogger(__name__)


class KeptStacks:
    """Reads and writes the finished stacks of a sweep, each known by all its heads depend on."""

    def __init__(self, folder: Path, reader: SweepReader, terms: Mapping[str, Any]) -> None:
        """`terms` are what all heads have in common, as JSON."""
        self.folder = folder
        self.reader = reader
        self.terms = dict(terms)
        self.num_read = 0
        """Heads that were there."""
        self.seconds = 0.0
        """What training them had taken."""

    def read(self, stack: Sequence[Candidate]) -> list[Trained] | None:
        """The heads as they were trained; None where they are not there or not whole."""
        folder = self._folder_of(stack)
        if not (folder / STACK_FILE).exists():
            return None
        try:
            record = read_json(folder / STACK_FILE)
            if record["checksum"] != checksum(folder / WEIGHTS_FILE):
                raise ValueError(f"{WEIGHTS_FILE} is not the file {STACK_FILE} was written with")
            content = safetensors.torch.load_file(folder / WEIGHTS_FILE)
            heads = [
                self._restore(candidate, fields, _part(content, place))
                for place, (candidate, fields) in enumerate(
                    zip(stack, record["heads"], strict=True)
                )
            ]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            logger.warning("%s is not whole and is trained again (%s)", folder, error)
            return None
        self.num_read += len(heads)
        self.seconds += sum(head.seconds for head in heads)
        return heads

    def write(self, stack: Sequence[Candidate], heads: Sequence[Trained]) -> None:
        """Keep a finished stack; it appears whole or not at all."""
        folder = self._folder_of(stack)
        content: dict[str, torch.Tensor] = {}
        for place, head in enumerate(heads):
            for name, tensor in head.model.state_dict().items():
                content[f"{place}/weights/{name}"] = tensor.cpu().contiguous()
            for name in VALUES:
                if (values := getattr(head, name)) is not None:
                    content[f"{place}/values/{name}"] = torch.from_numpy(values)
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            temporary.write_bytes(safetensors.torch.save(content))
        record = {
            "checksum": checksum(folder / WEIGHTS_FILE),
            "heads": [
                {
                    "best_step": head.best_step,
                    "num_steps": head.num_steps,
                    "num_validations": head.num_validations,
                    "history": head.history,
                    "seconds": head.seconds,
                }
                for head in heads
            ],
        }
        write_json(folder / STACK_FILE, record)

    def clear(self) -> None:
        """Delete them: what lasts of a finished sweep is elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _restore(
        self, candidate: Candidate, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> Trained:
        point = candidate.point
        model = make_model(self.reader.columns(point), point.training, candidate.seed)
        weights = _part(tensors, "weights")
        model.load_state_dict(weights)
        values: dict[str, Floats | None] = dict.fromkeys(VALUES)
        values |= {name: tensor.numpy() for name, tensor in _part(tensors, "values").items()}
        return Trained(
            candidate=candidate,
            model=model.to(self.reader.device).eval(),
            best_step=fields["best_step"],
            num_steps=fields["num_steps"],
            num_validations=fields["num_validations"],
            history=tuple((step, metrics) for step, metrics in fields["history"]),
            seconds=fields["seconds"],
            **values,
        )

    def _folder_of(self, stack: Sequence[Candidate]) -> Path:
        # NOTE: of all heads in their order, as a head depends on its neighbours by rounding.
        heads = [self._identity(candidate) for candidate in stack]
        return self.folder / digest([FORMAT_VERSION, self.terms, heads])

    def _identity(self, candidate: Candidate) -> dict[str, Any]:
        """Everything a head depends on besides what it shares with all others."""
        point = candidate.point
        columns, data = self.reader.columns(point), self.reader.data(point)
        return {
            "training": trained_settings(point.training),
            "columns": dataclasses.asdict(columns),
            "pairs": data.checksum(),
            "holdout": dataclasses.asdict(data.holdout) if data.holdout else None,
            "validation": [point.sampling.val_n_samples, point.sampling.seed],
            "seed": candidate.seed,
        }


def _part(tensors: Mapping[str, torch.Tensor], name: object) -> dict[str, torch.Tensor]:
    """The tensors below a name, by the rest of theirs."""
    start = f"{name}/"
    return {key.removeprefix(start): tensors[key] for key in tensors if key.startswith(start)}
