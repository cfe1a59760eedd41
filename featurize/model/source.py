"""Finds the files of a backbone: a folder, a GGUF file, an installed package, or a hub id."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from featurize.errors import CriticError
from featurize.model.families.adapter import Adapter, find_adapter
from featurize.model.families.family import Family, LoadOptions, without_progress_bars
from featurize.model.families.files import digest_files, tokenizer_files
from featurize.model.families.hf import (
    PACKAGE_PREFIX,
    Gguf,
    HuggingFace,
    download_model,
    find_packaged_gguf,
)
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
    adapter: Adapter | None = None
    """Merged into the model of `folder` when that is loaded."""


def find_backbone(
    settings: BackboneSettings, cache_dir: Path, dtype: torch.dtype
) -> BackboneSource:
    """Find the files of a backbone; download a hub id or convert a GGUF file if necessary.

    Both are kept in `cache_dir`; a file is converted to `dtype`, that of the forward pass.

    Raises:
        CriticError: there is no readable model; the message says what was looked for.
    """
    path = _locate(settings, cache_dir)
    adapter = find_adapter(path)
    if adapter is not None:
        return _with_adapter(adapter, settings, cache_dir, dtype)
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


def _with_adapter(
    adapter: Adapter, settings: BackboneSettings, cache_dir: Path, dtype: torch.dtype
) -> BackboneSource:
    """Find the base model of an adapter; the tokenizer is the adapter's if it has one."""
    if settings.quantization is not None:
        raise CriticError(
            f"models.policy.quantization {settings.quantization!r}: {adapter.config} describes an"
            " adapter, which is merged into whole weights; set quantization to null, or merge it"
            " first (peft's merge_and_unload, then save_pretrained)"
        )
    tokenizer = settings.tokenizer_path
    if tokenizer is None and adapter.has_tokenizer():
        tokenizer = str(adapter.folder)
    place = replace(
        settings, path=adapter.base, revision=adapter.revision, tokenizer_path=tokenizer
    )
    try:
        base = find_backbone(place, cache_dir, dtype)
    except CriticError as error:
        raise CriticError(f"{adapter.config}: base_model_name_or_path: {error}") from error
    if base.adapter is not None:
        raise CriticError(
            f"{adapter.config}: base_model_name_or_path {adapter.base!r} is an adapter itself;"
            " merge that one first (peft's merge_and_unload, then save_pretrained)"
        )
    return replace(
        base,
        weight_files=(*base.weight_files, *adapter.files),
        digest=adapter.digest_with(base.digest),
        adapter=adapter,
    )


@without_progress_bars()
def load_model(
    source: BackboneSource, settings: BackboneSettings, options: LoadOptions
) -> PreTrainedModel:
    """Load the model of a backbone, with its adapter merged into it.

    Raises:
        CriticError: its files cannot be read, or the adapter does not fit.
    """
    if source.adapter is None or settings.weights == "random":
        return source.family.load_model(source.folder, settings, options)
    # NOTE: an adapter names its places from the whole language model down.
    whole = replace(options, with_lm_head=True)
    model = source.adapter.merge_into(source.family.load_model(source.folder, settings, whole))
    return model if options.with_lm_head else cast(PreTrainedModel, model.base_model)


def load_tokenizer(source: BackboneSource, settings: BackboneSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a backbone.

    Raises:
        CriticError: its files cannot be read.
    """
    return source.family.load_tokenizer(source.folder, source.tokenizer_folder, settings)


def read_backbone_config(source: BackboneSource, settings: BackboneSettings) -> PreTrainedConfig:
    """Read the configuration of the language model without its weights.

    Raises:
        CriticError: there is none, it cannot be read, or it describes no single decoder.
    """
    whole = source.family.read_config(source.folder, settings)
    named = f"models.policy.path: {settings.path} ({whole.model_type})"
    try:
        config = whole.get_text_config()
    except ValueError as error:  # transformers cannot choose among them
        raise CriticError(
            f"{named} has several language models, and features come from one causal decoder; give"
            " another model"
        ) from error
    for key in ("num_hidden_layers", "hidden_size", "vocab_size"):
        if getattr(config, key, None) is None:
            raise CriticError(
                f"{named} has no {key} in its config, so it is not a plain decoder; give another"
                " model"
            )
    return config


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


def _tokenizer_folder(settings: BackboneSettings, folder: Path) -> Path:
    if settings.tokenizer_path is None:
        return folder
    path = Path(settings.tokenizer_path)
    if path.is_file():
        return path.parent
    if not path.is_dir():
        raise CriticError(f"models.policy.tokenizer_path: {path}: no such folder")
    return path
