"""Heads as models of transformers: the class of the backbone's family, or the custom one."""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from featurize.io.files import share_weights
from featurize.model.backbone import Backbone
from featurize.model.decoder import find_decoder
from headtrain.export.head_folder import ExportError
from headtrain.export.modeling_critic import (
    POOLINGS,
    CriticConfig,
    CriticForSequenceClassification,
    ValueHead,
)
from headtrain.head.checkpoint import HeadRecord, TrainedHead
from headtrain.head.model import DIRECT_SCALE, HeadModel

CODE_FILE = "modeling_critic.py"
AUTO_MAP = {
    "AutoConfig": "modeling_critic.CriticConfig",
    "AutoModelForSequenceClassification": "modeling_critic.CriticForSequenceClassification",
}


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A linear head as one product: value = weight @ features + offset."""

    weight: torch.Tensor
    """float64 [width]."""
    offset: float


def fold(head: TrainedHead) -> Folded:
    """Fold normaliser, mix and members of a linear head into one weight and offset, in float64."""
    record = head.record
    model = copy.deepcopy(head.model).cpu().double().eval()
    # The gradient of an affine function is its weight vector, however the function is written.
    inputs = torch.zeros(record.columns.width, dtype=torch.float64, requires_grad=True)
    value = model(inputs).squeeze()
    (weight,) = torch.autograd.grad(value, inputs)
    return Folded(weight=weight, offset=float(value.detach()))


def why_not_native(record: HeadRecord, num_layers: int) -> str | None:
    """Say why a head cannot be a `*ForSequenceClassification`; None if it can.

    That class applies a linear layer to the last token of the last layer, after the final norm.
    Layers below the last are stored before any norm, and a linear layer cannot undo one.
    """
    if record.head_type != "linear":
        return f"its type is {record.head_type}, not linear"
    if record.likelihood:
        return "it reads the likelihood"
    if list(record.tensors) != [f"last.{num_layers}"]:
        return f"it reads {', '.join(record.tensors)}, not last.{num_layers} alone"
    return None


def native_model(
    head: TrainedHead, backbone: Backbone, about: Mapping[str, Any], dtype: torch.dtype
) -> PreTrainedModel:
    """Make the model of the backbone's family; `about` becomes the field `critic` of its config.

    The class has no bias: the constant that is left over is `offset` in that field.

    Raises:
        ExportError: the family has no such class, or one that is not a single linear layer.
    """
    folded, config = fold(head), backbone.decoder.config
    if config.num_labels != 1:
        config.num_labels = 1
        config.problem_type = "regression"
    auto: Any = AutoModelForSequenceClassification
    try:
        model: PreTrainedModel = auto.from_config(config, dtype=dtype)
    except ValueError as error:
        raise ExportError(
            f"transformers has no sequence classification of {config.model_type!r} models; export"
            " with --custom"
        ) from error
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear) or score.weight.shape != (1, len(folded.weight)):
        raise ExportError(
            f"{type(model).__name__} has no linear layer `score` of {len(folded.weight)} inputs;"
            " export with --custom"
        )
    model.base_model.load_state_dict(backbone.decoder.state_dict())
    with torch.no_grad():
        score.weight.copy_(folded.weight[None])
        if score.bias is not None:
            score.bias.fill_(folded.offset)
    offset = folded.offset if score.bias is None else 0.0
    model.config.critic = {**about, "offset": offset}
    return model


def deepest_block(record: HeadRecord, num_layers: int) -> int:
    """Return how many blocks the custom class runs.

    One more than the deepest layer that is read: transformers normalises the last one it runs, and
    features of layers below the last of the backbone are stored before the norm.
    """
    if record.likelihood:
        return num_layers
    deepest = max(int(name.rpartition(".")[2]) for name in record.tensors)
    return min(deepest + 1, num_layers)


def custom_model(
    head: TrainedHead, backbone: Backbone, fields: Mapping[str, Any], dtype: torch.dtype
) -> PreTrainedModel:
    """Make a model of the custom class; `fields` are those of its config.

    Raises:
        ExportError: the class lacks a pooling that the head reads.
    """
    record = head.record
    missing = [name for name in record.tensors if name.rpartition(".")[0] not in POOLINGS]
    if missing:
        raise ExportError(
            f"{head.path}: the exported class cannot compute {missing[0]!r}; its poolings are"
            f" {', '.join(POOLINGS)}"
        )
    inner = backbone.decoder.config.to_dict()
    inner.pop("dtype", None)
    config = CriticConfig(
        backbone=inner,
        tensors=dict(record.tensors),
        likelihood=record.likelihood,
        units=[1] if record.head_type == "linear" else [record.num_units, record.num_units // 2, 1],
        num_members=record.num_members,
        num_direct=record.num_direct,
        dtype=dtype,
        auto_map=AUTO_MAP,
        **fields,
    )
    model = CriticForSequenceClassification(config)
    model.to(dtype)  # type: ignore[arg-type]
    find_decoder(model.backbone).load_state_dict(backbone.decoder.state_dict())
    if backbone.lm_head is not None:
        _copy_rows(backbone.lm_head, model.backbone.get_output_embeddings())
    for target, member in zip(model.heads, head.model.members, strict=True):
        assert isinstance(target, ValueHead)
        assert isinstance(member, HeadModel)
        _copy(member, target)
    return model


@torch.no_grad()
def _copy_rows(source: nn.Module, target: nn.Module) -> None:
    """Copy an output matrix into one that may have a row more, for padding: zeros."""
    parameters = dict(target.named_parameters())
    for name, value in source.named_parameters():
        parameters[name].zero_()[: len(value)].copy_(value)


@torch.no_grad()
def _copy(member: HeadModel, target: ValueHead) -> None:
    target.float()
    target.mean.copy_(member.normaliser.mean)
    target.scale.copy_(member.normaliser.scale)
    if member.spec.mixed_blocks:
        shares = member.mix.softmax(0) * len(member.mix)
        target.gates.copy_(shares[member.column_blocks])
    if member.spec.num_direct:
        target.direct.copy_(DIRECT_SCALE * member.direct[0])
    weights = [weight for name, weight in member.head.named_parameters() if "weight" in name]
    for layer, weight in zip(target.layers, weights, strict=True):
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weight)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights and config, and the code of the custom class."""
    model.save_pretrained(folder)
    share_weights(folder)
    if isinstance(model, CriticForSequenceClassification):
        shutil.copyfile(Path(__file__).parent / CODE_FILE, folder / CODE_FILE)
