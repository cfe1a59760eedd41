"""The frozen language model: found, identified, loaded and cut to the layers that are asked for."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from featurize.model.checks import check_causal, check_complete, check_logits, check_params
from featurize.model.gguf import PACKAGE_PREFIX, convert_gguf, find_packaged_gguf
from featurize.model.identity import digest_files, model_files, tokenizer_files
from featurize.model.llama_mtp import (
    is_llama_mtp,
    load_llama_mtp,
    load_llama_mtp_tokenizer,
    read_llama_config,
)
from featurize.model.quantization import quantization_config
from featurize.model.sharing import (
    WHOLE,
    Sharing,
    cut_config,
    finish_sharing,
    to_distributed_config,
)
from featurize.settings import BackboneSettings

_UNREADABLE = (
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


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded backbone, ready to run."""

    decoder: PreTrainedModel  # embeddings, blocks, final norm
    blocks: nn.ModuleList  # up to the deepest layer asked for
    lm_head: nn.Module | None  # only when the likelihood is asked for
    num_layers: int  # of the whole backbone
    hidden_size: int
    device: torch.device
    plain_attention: str  # sdpa, or eager for models that have no other (soft capping, sinks)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [tokens, hidden] -> float32 [tokens, vocabulary]."""
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(hidden).float()
        config = self.decoder.config
        # The scalings models put behind their lm_head: Cohere multiplies, Granite divides,
        # Gemma 2 caps. The engine checks the sum against the model's own at the start.
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits


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
        raise ValueError(_unreadable(source.tokenizer_folder, "tokenizer", error)) from error
    return tokenizer


def resolve_layers(layers: tuple[int, ...] | str, num_layers: int) -> list[int]:
    """Layer numbers as transformers counts hidden states: 0 embeddings, `num_layers` the last.

    Negative numbers count from the end: -1 is the last layer, after the final norm.

    Raises:
        ValueError: a layer the backbone does not have, or one named twice.
    """
    if layers == "all":
        return list(range(num_layers + 1))
    resolved = []
    for layer in layers:
        assert isinstance(layer, int)
        if not -num_layers - 1 <= layer <= num_layers:
            raise ValueError(
                f"featurize.layers: {layer} is not one of the backbone's layers, which are"
                f" 0..{num_layers} (or -1 for the last)"
            )
        resolved.append(layer % (num_layers + 1))
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"featurize.layers: {list(layers)} names a layer twice; name each once")
    return sorted(resolved)


def load_backbone(
    source: BackboneSource,
    settings: BackboneSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    deepest_layer: int,
    with_lm_head: bool,
    sharing: Sharing = WHOLE,
) -> Backbone:
    """Loads the backbone, checks it against `models.policy.params`, drops what is not needed.

    A shared backbone is loaded by all ranks of a group at once, each reading its own part.

    Raises:
        ValueError: unreadable weights, or another model than the config says it is.
    """
    whole = read_backbone_config(source, settings)
    check_params(settings, whole, is_mtp=source.is_mtp)
    num_layers = int(whole.num_hidden_layers)
    num_blocks = min(max(deepest_layer, 1), num_layers)
    model = _load_model(source, settings, device, dtype, with_lm_head, sharing, num_blocks)
    model.eval().requires_grad_(False)
    finish_sharing(model, sharing)
    decoder = cast(PreTrainedModel, model.base_model if with_lm_head else model)
    config = _text_config(decoder.config)
    name, blocks = _find_blocks(decoder, int(config.num_hidden_layers))
    if num_blocks < len(blocks):
        # Blocks above the deepest layer asked for would be computed for nothing.
        blocks = blocks[:num_blocks]
        setattr(decoder, name, blocks)
        config.num_hidden_layers = len(blocks)
    backbone = Backbone(
        decoder=decoder,
        blocks=blocks,
        lm_head=model.get_output_embeddings() if with_lm_head else None,
        num_layers=num_layers,
        hidden_size=int(config.hidden_size),
        device=device,
        plain_attention=decoder.config._attn_implementation or "eager",
    )
    if with_lm_head:
        # NOTE: before the other check, which runs the decoder alone: FSDP has to see the whole
        # model run once before a part of it may.
        check_logits(model, decoder, backbone.logits, device)
    check_causal(decoder, device)
    return backbone


def _load_model(
    source: BackboneSource,
    settings: BackboneSettings,
    device: torch.device,
    dtype: torch.dtype,
    with_lm_head: bool,
    sharing: Sharing,
    num_blocks: int,
) -> PreTrainedModel:
    if source.is_mtp:
        if settings.quantization:
            raise ValueError(
                "models.policy.quantization is for transformers' own formats; a llama-MTP"
                " checkpoint is read as it is: set it to null"
            )
        if settings.mtp_output == "trunk" and with_lm_head:
            raise ValueError(
                "the trunk predicts no next token, so there is no likelihood; set"
                " models.policy.mtp_output to next_token or featurize.likelihood to false"
            )
        return load_llama_mtp(
            source.folder,
            output=settings.mtp_output,
            dtype=dtype,
            with_lm_head=with_lm_head,
            num_layers=num_blocks,
            device=device,
            sharing=sharing,
        )
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": settings.trust_remote_code}
    if settings.quantization:
        options["quantization_config"] = quantization_config(settings.quantization, dtype)
    if sharing.is_shared:
        config = AutoConfig.from_pretrained(
            source.folder, trust_remote_code=settings.trust_remote_code
        )
        options["config"] = cut_config(config, num_blocks)
        options["distributed_config"] = to_distributed_config(sharing, device)
    elif settings.quantization or device.type != "cpu":
        options["device_map"] = {"": device}
    auto: Any = AutoModelForCausalLM if with_lm_head else AutoModel
    try:
        loaded, report = auto.from_pretrained(source.folder, output_loading_info=True, **options)
    except _UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(_unreadable(source.folder, "backbone", error)) from error
    check_complete(source.folder, report["missing_keys"])
    return cast(PreTrainedModel, loaded)


def read_backbone_config(source: BackboneSource, settings: BackboneSettings) -> PreTrainedConfig:
    """The configuration of the language model, without its weights.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if source.is_mtp:
        return read_llama_config(source.folder, output=settings.mtp_output)
    try:
        return _text_config(
            AutoConfig.from_pretrained(source.folder, trust_remote_code=settings.trust_remote_code)
        )
    except _UNREADABLE as error:
        raise ValueError(_unreadable(source.folder, "backbone", error)) from error


def _text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language part of a config that may hold several."""
    return config.get_text_config()


def _find_blocks(decoder: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """The list of transformer blocks and the attribute that holds it."""
    for name, child in decoder.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == num_layers:
            return name, child
    raise ValueError(
        f"{type(decoder).__name__}: no list of {num_layers} blocks found in it; it is not a plain"
        " decoder that features can be taken from"
    )


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


def _unreadable(folder: Path, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{folder}: the {what} cannot be read ({reason})"
