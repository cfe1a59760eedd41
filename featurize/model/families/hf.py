"""Hugging Face models: folders that transformers reads, and ids of models on the hub."""

import importlib.util
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from featurize.errors import CriticError
from featurize.model.families.family import (
    UNREADABLE,
    Family,
    LoadOptions,
    check_complete,
    draw_model,
    first_line,
    unreadable,
)
from featurize.model.sharing import cut_config, to_distributed_config
from featurize.settings import BackboneSettings


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
        if settings.weights == "random":
            return draw_model(folder, self.read_config(folder, settings), settings, options)
        auto: Any = AutoModelForCausalLM if options.with_lm_head else AutoModel
        keywords = self._keywords(folder, settings, options)
        try:
            loaded, report = auto.from_pretrained(folder, output_loading_info=True, **keywords)
        except UNREADABLE as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise unreadable(folder, "backbone", error) from error
        check_complete(folder, report["missing_keys"])
        return cast(PreTrainedModel, loaded)

    def _keywords(
        self, folder: Path, settings: BackboneSettings, options: LoadOptions
    ) -> dict[str, Any]:
        keywords: dict[str, Any] = {
            "dtype": options.dtype,
            "trust_remote_code": settings.trust_remote_code,
        }
        if settings.quantization:
            keywords["quantization_config"] = to_quantization_config(
                settings.quantization, options.dtype
            )
        if options.sharing.is_shared:
            config = self.read_config(folder, settings)
            keywords["config"] = cut_config(config, options.num_layers)
            keywords["distributed_config"] = to_distributed_config(options.sharing, options.device)
        elif settings.quantization or options.device.type != "cpu":
            keywords["device_map"] = {"": options.device}
        return keywords


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
    """Download a model from the hub, once; return its folder.

    Raises:
        CriticError: the path is no hub id, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]
    patterns += ["*.py"] if settings.trust_remote_code else []
    try:
        for more in ([], ["*.bin"]):  # pickled weights only if there are no others
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
        raise CriticError(
            f"models.policy.path: {settings.path!r} is no local folder and cannot be downloaded"
            f" from the hub ({first_line(error)}); give a model folder, a .gguf file or a hub id"
        ) from error
