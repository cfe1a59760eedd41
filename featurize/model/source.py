"""Where a backbone lies: a folder, a GGUF file, a package or the hub; found and identified."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from featurize.model.families.gguf import PACKAGE_PREFIX, convert_gguf, find_packaged_gguf
from featurize.model.families.llama_mtp import (
    is_llama_mtp,
    load_llama_mtp_tokenizer,
    read_llama_config,
)
from featurize.model.identity import digest_files, model_files, tokenizer_files
from featurize.settings import BackboneSettings

UNREADABLE = (
    OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError, UnpicklingError,
)  # fmt: skip
"""What transformers raises over files that are damaged."""


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """Where a backbone lies on this machine, and what it is; nothing is loaded yet."""

    folder: Path  # a transformers folder, or a llama-MTP one
    tokenizer_folder: Path
    digest: str  # of the weights as they were given (the GGUF file, not its conversion)
    tokenizer_digest: str
    is_mtp: bool


def find_backbone(
    settings: BackboneSettings, cache_dir: Path, dtype: torch.dtype
) -> BackboneSource:
    """Finds the files of a backbone, fetching a hub id and converting a GGUF file when needed.

    Raises:
        ValueError: nothing readable is there; the message says what was looked for.
    """
    path = settings.path
    if path.startswith(PACKAGE_PREFIX):
        path = str(find_packaged_gguf(path.removeprefix(PACKAGE_PREFIX)))
    if path.endswith(".gguf"):
        if not Path(path).is_file():
            raise ValueError(f"models.policy.path: {path}: no such file")
        digest = digest_files([Path(path)])
        name = f"{digest}-{str(dtype).removeprefix('torch.')}"
        folder = convert_gguf(Path(path), cache_dir / "backbones" / name, dtype)
    else:
        folder = Path(path) if Path(path).is_dir() else _download(settings, cache_dir)
        if folder == Path(path) and settings.revision is not None:
            raise ValueError(
                f"models.policy.revision {settings.revision!r}: {path} is a folder here, and only a"
                " hub id has revisions; set revision to null"
            )
        if not model_files(folder):
            raise ValueError(f"models.policy.path: {folder}: holds no weights and no config.json")
        digest = digest_files(model_files(folder))
    tokenizer_folder = Path(settings.tokenizer_path) if settings.tokenizer_path else folder
    if tokenizer_folder.is_file():
        tokenizer_folder = tokenizer_folder.parent
    if not tokenizer_folder.is_dir():
        raise ValueError(f"models.policy.tokenizer_path: {tokenizer_folder}: no such folder")
    return BackboneSource(
        folder=folder,
        tokenizer_folder=tokenizer_folder,
        digest=digest,
        tokenizer_digest=digest_files(tokenizer_files(tokenizer_folder)),
        is_mtp=is_llama_mtp(folder),
    )


def load_tokenizer(source: BackboneSource, settings: BackboneSettings) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone.

    Raises:
        ValueError: its files cannot be read.
    """
    if source.is_mtp:
        return load_llama_mtp_tokenizer(source.tokenizer_folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.tokenizer_folder, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # NOTE: the tokenizers library raises nothing narrower
        raise ValueError(unreadable(source.tokenizer_folder, "tokenizer", error)) from error
    return tokenizer


def read_backbone_config(source: BackboneSource, settings: BackboneSettings) -> PreTrainedConfig:
    """The configuration of the language model, without its weights.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if source.is_mtp:
        return read_llama_config(source.folder, output=settings.mtp_output)
    try:
        return text_config(
            AutoConfig.from_pretrained(source.folder, trust_remote_code=settings.trust_remote_code)
        )
    except UNREADABLE as error:
        raise ValueError(unreadable(source.folder, "backbone", error)) from error


def _download(settings: BackboneSettings, cache_dir: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]
    patterns += ["*.py"] if settings.trust_remote_code else []
    try:
        for more in ([], ["*.bin"]):  # weights in pickles only where there are no others
            folder = snapshot_download(
                settings.path,
                revision=settings.revision,
                allow_patterns=patterns + more,
                cache_dir=cache_dir / "hub",
            )
            if any(Path(folder).glob("*.safetensors")):
                break
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ValueError(
            f"models.policy.path: {settings.path!r} is no folder here, and not to be had from the"
            f" hub ({str(error).splitlines()[0]}); give a model folder, a .gguf file or a hub id"
        ) from error


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language part of a config that may hold several."""
    return config.get_text_config()


def unreadable(folder: Path, what: str, error: Exception) -> str:
    """The line that says what of a folder cannot be read, and why."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{folder}: the {what} cannot be read ({reason})"
