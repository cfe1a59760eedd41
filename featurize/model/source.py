"""Finds the files of a backbone: a folder, a GGUF file, an installed package, or a hub id."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from featurize.errors import CriticError
from featurize.io.files import read_json
from featurize.model.families.family import Family
from featurize.model.families.files import digest_files, tokenizer_files
from featurize.model.families.gguf import PACKAGE_PREFIX, Gguf, find_packaged_gguf
from featurize.model.families.hf import HuggingFace, download_model
from featurize.model.families.llama_mtp import LlamaMtp
from featurize.settings import BackboneSettings

FAMILIES: tuple[Family, ...] = (Gguf(), LlamaMtp(), HuggingFace())
"""The first one that claims a path reads it."""


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """The files of a backbone on this machine; nothing is loaded yet."""

    family: Family
    folder: Path
    """Where the family loads from: of a GGUF file its conversion."""
    tokenizer_folder: Path
    weight_files: tuple[Path, ...]
    """The files of `digest`: of a GGUF file the file itself, whatever it was converted to."""
    digest: str
    tokenizer_digest: str


def find_backbone(
    settings: BackboneSettings, cache_dir: Path, dtype: torch.dtype
) -> BackboneSource:
    """Find the files of a backbone; download a hub id or convert a GGUF file if necessary.

    Args:
        settings: which backbone.
        cache_dir: folder for downloads and conversions.
        dtype: number format of the forward pass, for conversions.

    Raises:
        CriticError: there is no readable model; the message says what was looked for.
    """
    path = _locate(settings, cache_dir)
    _refuse_adapter(path)
    family = next(family for family in FAMILIES if family.claims(path))
    files = family.weight_files(path)
    if not files:
        raise CriticError(f"models.policy.path: {path}: no weights and no config.json in it")
    digest = digest_files(files)
    folder = family.prepare(path, cache_dir, digest, dtype)
    tokenizer_folder = _tokenizer_folder(settings, folder)
    return BackboneSource(
        family=family,
        folder=folder,
        tokenizer_folder=tokenizer_folder,
        weight_files=tuple(files),
        digest=digest,
        tokenizer_digest=digest_files(tokenizer_files(tokenizer_folder)),
    )


def load_tokenizer(source: BackboneSource, settings: BackboneSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a backbone.

    Raises:
        CriticError: its files cannot be read.
    """
    return source.family.load_tokenizer(source.folder, source.tokenizer_folder, settings)


def read_backbone_config(source: BackboneSource, settings: BackboneSettings) -> PreTrainedConfig:
    """Read the configuration of the language model without its weights.

    Raises:
        CriticError: there is none, or it cannot be read.
    """
    return source.family.read_config(source.folder, settings).get_text_config()


def _locate(settings: BackboneSettings, cache_dir: Path) -> Path:
    """Find the local file or folder of `models.policy.path`."""
    if settings.path.startswith(PACKAGE_PREFIX):
        return find_packaged_gguf(settings.path.removeprefix(PACKAGE_PREFIX))
    path = Path(settings.path)
    if settings.path.endswith(".gguf"):
        return path
    if not path.is_dir():
        return download_model(settings, cache_dir)
    if settings.revision is not None:
        raise CriticError(
            f"models.policy.revision {settings.revision!r}: {path} is a local folder, and only a"
            " hub id has revisions; set revision to null"
        )
    return path


def _refuse_adapter(path: Path) -> None:
    """Raise CriticError for a folder with an adapter: the weights alone are another model."""
    file = path / "adapter_config.json"
    if not file.is_file():
        return
    base = read_json(file).get("base_model_name_or_path")
    raise CriticError(
        f"models.policy.path: {file} describes an adapter (LoRA) of {base!r}, which would not be"
        " applied; merge it into the model (peft's merge_and_unload, then save_pretrained) and name"
        " that folder, or remove adapter_config.json if the weights beside it are merged"
    )


def _tokenizer_folder(settings: BackboneSettings, folder: Path) -> Path:
    if settings.tokenizer_path is None:
        return folder
    path = Path(settings.tokenizer_path)
    if path.is_file():
        return path.parent
    if not path.is_dir():
        raise CriticError(f"models.policy.tokenizer_path: {path}: no such folder")
    return path
