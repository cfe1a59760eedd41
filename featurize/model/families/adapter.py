"""Adapters of peft (LoRA and similar): small weights that change a base model, merged into it."""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from featurize.errors import CriticError
from featurize.io.files import digest, read_object
from featurize.model.families.family import UNREADABLE, unreadable
from featurize.model.families.files import WEIGHTS, digest_files, model_files, tokenizer_files

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PLACES = ("base_model_name_or_path", "revision", "inference_mode")
"""Fields of the config that say where the base model is, not what the adapter does to it."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A folder that peft's `save_pretrained` wrote."""

    folder: Path
    base: str
    """Folder or hub id of the model that it changes."""
    revision: str | None
    """Of the base model, if that is a hub id."""

    @property
    def config(self) -> Path:
        """The file that describes the adapter."""
        return self.folder / _CONFIG

    @property
    def weights(self) -> Path:
        """The file with its weights; of two the one that peft reads."""
        return next(path for name in _WEIGHTS if (path := self.folder / name).is_file())

    @property
    def files(self) -> tuple[Path, Path]:
        """Both files."""
        return self.config, self.weights

    def digest_with(self, base: str) -> str:
        """Return the digest of the merged model, given that of the base model's files."""
        changes = {key: value for key, value in _read(self.config).items() if key not in _PLACES}
        return digest([base, changes, digest_files([self.weights])])

    def has_tokenizer(self) -> bool:
        """Whether the folder has a whole tokenizer, as trainers save it."""
        names = {file.name for file in tokenizer_files(self.folder)}
        return "tokenizer_config.json" in names and len(names) > 1

    def merge_into(self, model: PreTrainedModel) -> PreTrainedModel:
        """Add the adapter to the weights of its base model, a whole causal language model.

        Raises:
            CriticError: the adapter does not fit the model, or cannot be merged.
        """
        peft = _peft()
        try:
            config = peft.PeftConfig.from_pretrained(str(self.folder))
            if config.is_prompt_learning:
                raise CriticError(
                    f"models.policy.path: {self.config}: {config.peft_type} adds no weights but"
                    " tokens, so it cannot be merged into its model; use an adapter of another"
                    " type (LoRA)"
                )
            config.inference_mode = True
            adapted = peft.PeftModel(model, config)
            self._load_weights(adapted)
            merged = adapted.base_model.merge_and_unload(safe_merge=True)
        except CriticError:
            raise
        # NotImplementedError: peft raises it for a kind of adapter that it cannot merge.
        except (*UNREADABLE, AttributeError, NotImplementedError, SafetensorError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise unreadable(self.folder, f"adapter of {self.base!r}", error) from error
        return cast(PreTrainedModel, merged)

    def _load_weights(self, adapted: Any) -> None:
        """Load the weights into a model with this adapter; each must have its place."""
        peft = _peft()
        weights = peft.load_peft_weights(str(self.folder), device=str(adapted.device))
        expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        unexpected = peft.set_peft_model_state_dict(adapted, weights).unexpected_keys
        kind = type(adapted.get_base_model()).__name__
        if missing := sorted(set(expected) - set(weights)):
            raise CriticError(
                f"{self.weights}: {missing[0]!r} is missing ({len(missing)} missing weights); save"
                " the adapter again"
            )
        if unexpected:
            raise CriticError(
                f"{self.weights}: {min(unexpected)!r} has no place in the {kind} of {self.base!r}"
                f" ({len(unexpected)} such weights), so the adapter changes another model; correct"
                f" base_model_name_or_path in {_CONFIG}"
            )


def find_adapter(folder: Path) -> Adapter | None:
    """Read the adapter in a folder; None if there is none.

    Raises:
        CriticError: peft is not installed, there are full weights beside the adapter, or its
            files are incomplete.
    """
    file = folder / _CONFIG
    if not file.is_file():
        return None
    config = _read(file)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CriticError(
            f"models.policy.path: {file}: base_model_name_or_path is {base!r}; write the folder or"
            " hub id of the model that the adapter changes"
        )
    _refuse_full_weights(folder, base)
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise CriticError(f"models.policy.path: {folder}: no {_WEIGHTS[0]} beside {_CONFIG}")
    if importlib.util.find_spec("peft") is None:
        raise CriticError(
            f"models.policy.path: {file} describes an adapter of {base!r}, which needs the library"
            " peft; run `pip install 'critic[peft]'`, or merge it into the model (peft's"
            " merge_and_unload, then save_pretrained) and name that folder"
        )
    return Adapter(folder=folder, base=_near(folder, base), revision=config.get("revision"))


def _peft() -> Any:
    return importlib.import_module("peft")  # optional, and its annotations are incomplete


def _refuse_full_weights(folder: Path, base: str) -> None:
    """Raise CriticError if an adapter has a model beside it: it may be merged already, or not."""
    weights = [file for file in model_files(folder) if file.suffix in WEIGHTS]
    if full := sorted(file.name for file in weights if file.name not in _WEIGHTS):
        raise CriticError(
            f"models.policy.path: {folder} has full weights ({full[0]}) beside an adapter"
            f" ({_CONFIG}) of {base!r}, and nothing tells whether they contain it already; remove"
            f" {_CONFIG} if they are merged, else move the adapter to a folder of its own"
        )


def _near(folder: Path, base: str) -> str:
    """Return the base model's path; a relative one is that of this folder or of the adapter's."""
    beside = folder / base
    return str(beside) if not Path(base).exists() and beside.is_dir() else base


def _read(file: Path) -> dict[str, Any]:
    return read_object(file, "save the adapter again")
