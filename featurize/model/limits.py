"""What a backbone cannot take, known from its config and tokenizer before any weight is read."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
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
    if _has_position_table(config, settings):
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


def _has_position_table(config: PreTrainedConfig, settings: BackboneSettings) -> bool:
    """Return whether positions are rows of a learned table, as in GPT-2 and OPT."""
    decoder = _make_skeleton(config, settings)
    return decoder is not None and any(
        isinstance(module, nn.Embedding) and ("wpe" in name or "position" in name)
        for name, module in decoder.named_modules()
    )
