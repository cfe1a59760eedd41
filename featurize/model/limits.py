"""What a backbone cannot take, known from its config and file headers before weights are read."""

import copy
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from featurize.errors import CriticError
from featurize.model.decoder import check_blocks, find_blocks, find_decoder
from featurize.settings import BackboneSettings

logger = logging.getLogger(__name__)

_WITHOUT_LOGITS = ("ForSequenceClassification", "ForTokenClassification", "RewardModel")
_SHAPES = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, KeyError)
"""Errors of models that cannot be made, or run, without weights: NotImplementedError is that of an
operator which the meta device lacks."""
_STREAMS = ("altup_num_inputs", "hc_count", "hc_mult")
"""Keys of configs for the residual streams of AltUp and of hyper-connections."""
_POINTER = b"version https://git-lfs"
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.weight$")
_OTHER_TOWERS = re.compile(r"vision|visual|audio|image|encoder|talker|code2wav|mtp")
_MORE_BLOCKS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
_IDS = torch.zeros((1, 4), dtype=torch.int64, device="meta")


def check_architecture(config: PreTrainedConfig, settings: BackboneSettings) -> None:
    """Raise CriticError if the model has no decoder with a hidden state per layer and token.

    It is made and run on the meta device, where tensors have shapes and no values.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise CriticError(
            f"models.policy.path: {settings.path} is an encoder-decoder ({config.model_type}), and"
            " features come from a causal decoder; give another model"
        )
    for key in _STREAMS:
        if (num_streams := getattr(config, key, None) or 1) > 1:
            raise CriticError(
                f"models.policy.path: {settings.path} ({config.model_type}) has {num_streams}"
                f" hidden states per token and layer ({key}), not one; give another model"
            )
    shared = getattr(config, "num_kv_shared_layers", None)
    if shared and shared >= config.num_hidden_layers:
        raise CriticError(
            f"models.policy.path: {settings.path} ({config.model_type}) makes drafts for another"
            f" model, whose keys and values all its {shared} layers take; give another model"
        )
    for decoder, options in _runnable(config, settings):
        blocks: Any = getattr(decoder, find_blocks(decoder) or "")
        try:
            check_blocks(decoder, blocks, _IDS, **options)
        except CriticError:
            raise
        except _SHAPES as error:
            logger.debug("%s does not run without weights: %s", type(decoder).__name__, error)
        else:
            return


def _runnable(
    config: PreTrainedConfig, settings: BackboneSettings
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Make decoders without weights, each with the arguments it may run with; the likeliest first.

    With a mask transformers does not look at positions to make one, which have no values here.
    Mixtures of experts have 16-bit products only.
    """
    plain = {"attn_implementation": "eager", "dtype": torch.bfloat16}
    for how, options in ((plain, {"attention_mask": torch.ones_like(_IDS)}), ({}, {})):
        decoder = _make_skeleton(config, settings, **how)
        if decoder is not None:
            yield decoder, options


def count_parameters(config: PreTrainedConfig, settings: BackboneSettings) -> int | None:
    """Count the parameters of a decoder without its weights; None if that does not work."""
    decoder = _make_skeleton(config, settings)
    return None if decoder is None else sum(one.numel() for one in decoder.parameters())


def check_likelihood(config: PreTrainedConfig, settings: BackboneSettings) -> None:
    """Raise CriticError if the model has no logits, from which the likelihood is computed."""
    name = next(iter(getattr(config, "architectures", None) or ()), "")
    if name.endswith(_WITHOUT_LOGITS):
        raise CriticError(
            f"models.policy.path: {settings.path} is a {name}, which has no lm_head and so no"
            " likelihood; set featurize.likelihood=false"
        )


def check_positions(config: PreTrainedConfig, settings: BackboneSettings, max_length: int) -> None:
    """Compare the longest sequence with the positions the model has, or was trained on.

    Raises:
        CriticError: it has a table of positions, and the table is shorter.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0 or max_length <= limit:
        return
    decoder = _make_skeleton(config, settings)
    named = [] if decoder is None else decoder.named_modules()
    embeddings = [name for name, module in named if isinstance(module, nn.Embedding)]
    if any("wpe" in name or "position" in name for name in embeddings):  # as in GPT-2 and OPT
        raise CriticError(
            f"dataset.max_length is {max_length}, but the backbone at {settings.path} has a table"
            f" of {limit} positions; set dataset.max_length={limit} or less"
        )
    if getattr(config, "rope_parameters", None):
        logger.warning(
            "dataset.max_length is %d, but the backbone at %s was trained on %d positions"
            " (max_position_embeddings): features of longer samples may mean little",
            max_length, settings.path, limit,
        )  # fmt: skip


def check_vocabulary(largest_id: int, config: PreTrainedConfig, settings: BackboneSettings) -> None:
    """Raise CriticError if the tokenizer can give an id beyond the embedding table."""
    if largest_id >= config.vocab_size:
        raise CriticError(
            f"models.policy.path: the tokenizer of {settings.tokenizer_path or settings.path} gives"
            f" ids up to {largest_id}, but the embedding table of {settings.path} has"
            f" {config.vocab_size} rows; set models.policy.tokenizer_path to its own tokenizer"
        )


def _make_skeleton(config: PreTrainedConfig, settings: BackboneSettings, **options: Any) -> Any:
    """Make the decoder of a model without weights; None if that does not work for its class."""
    auto: Any = AutoModel
    try:
        with torch.device("meta"):
            model = auto.from_config(
                copy.deepcopy(config), trust_remote_code=settings.trust_remote_code, **options
            )
    except (ImportError, *_SHAPES) as error:
        logger.debug("%s cannot be made without weights: %s", config.model_type, error)
        return None
    return find_decoder(model)


def check_weights(folder: Path, config: PreTrainedConfig, settings: BackboneSettings) -> None:
    """Check the safetensors files of a model folder; warn of blocks that would not be used.

    What cannot be read is left to the library that reads the weights.

    Raises:
        CriticError: a file is only a pointer of Git LFS, or the embedding has other rows than the
            config says.
    """
    if settings.weights == "random":
        return
    shapes = dict(_shapes(sorted(folder.glob("*.safetensors"))))
    text = config.get_text_config()
    _check_embedding(folder, shapes, getattr(text, "vocab_size", None))
    wanted = getattr(text, "num_hidden_layers", None)
    own = (_BLOCK.search(name) for name in shapes if not _OTHER_TOWERS.search(name))
    found = max((int(block[1]) for block in own if block), default=-1) + 1
    extra = sum(getattr(text, name, None) or 0 for name in _MORE_BLOCKS)
    if isinstance(wanted, int) and found > wanted + extra:
        logger.warning(
            "%s has the weights of %d blocks, but its config.json says num_hidden_layers %d: the"
            " blocks after these are not used",
            folder, found, wanted,
        )  # fmt: skip


def _shapes(files: Iterable[Path]) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of every tensor; nothing for a file whose header is damaged."""
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise CriticError(
                    f"{file}: is a pointer of Git LFS, not the weights; run `git lfs pull` in its"
                    " folder, or download the model again"
                )
        try:
            with safe_open(file, "pt") as tensors:
                yield from ((name, tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError:
            continue


def _check_embedding(folder: Path, shapes: dict[str, list[int]], rows: int | None) -> None:
    found = [n for n in shapes if _EMBEDDING.search(n) and not _OTHER_TOWERS.search(n)]
    if len(found) == 1 and rows is not None and shapes[found[0]][0] != rows:
        raise CriticError(
            f"{folder}: {found[0]} has {shapes[found[0]][0]} rows, but config.json says vocab_size"
            f" {rows}; download config and weights of one model"
        )
