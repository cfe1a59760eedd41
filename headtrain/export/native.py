"""Exports a linear head as the `*ForSequenceClassification` class of its backbone's family."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from featurize.io.files import read_json
from featurize.model.backbone import Backbone
from headtrain.export.fold import ExportError, Folded


def write_native(
    folder: Path,
    folded: Folded,
    backbone: Backbone,
    about: dict[str, Any],
    *,
    dtype: torch.dtype,
    pad_token_id: int,
) -> None:
    """Write model and configuration; `about` becomes the field `critic` of config.json.

    Raises:
        ExportError: the family has no such class, or one that is not a single linear layer.
    """
    config = backbone.decoder.config
    auto: Any = AutoModelForSequenceClassification
    try:
        model: PreTrainedModel = auto.from_config(config, dtype=dtype)
    except ValueError as error:
        raise ExportError(
            f"transformers has no sequence classification of {config.model_type!r} models; export"
            " with --custom"
        ) from error
    model = _with_one_label(model, config, dtype)
    score = getattr(model, "score", None)
    if not isinstance(score, torch.nn.Linear) or score.weight.shape != (1, len(folded.weight)):
        raise ExportError(
            f"{type(model).__name__} has no linear layer `score` of {len(folded.weight)} inputs;"
            " export with --custom"
        )
    model.base_model.load_state_dict(backbone.decoder.state_dict())
    offset = 0.0
    with torch.no_grad():
        score.weight.copy_(folded.weight[None])
        if score.bias is not None:
            score.bias.fill_(folded.offset)
        else:
            offset = folded.offset
    model.config.pad_token_id = pad_token_id
    model.save_pretrained(folder)
    content = read_json(folder / "config.json")
    content["critic"] = {**about, "offset": offset}
    (folder / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _with_one_label(model: PreTrainedModel, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    auto: Any = AutoModelForSequenceClassification
    if config.num_labels == 1:
        return model
    config.num_labels = 1
    config.problem_type = "regression"
    made: PreTrainedModel = auto.from_config(config, dtype=dtype)
    return made
