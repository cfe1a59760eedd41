"""Exports any head as a custom transformers class, whose code is written into the export."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featurize.io.files import read_json
from featurize.model.backbone import Backbone
from featurize.model.decoder import find_decoder
from headtrain.export.fold import ExportError
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


def deepest_block(record: HeadRecord, num_layers: int) -> int:
    """Return how many blocks the class runs.

    One more than the deepest layer that is read: transformers normalises the last one it runs, and
    features of layers below the last of the backbone are stored before the norm.
    """
    if record.likelihood:
        return num_layers
    deepest = max(int(name.rpartition(".")[2]) for name in record.tensors)
    return min(deepest + 1, num_layers)


def write_custom(
    folder: Path,
    head: TrainedHead,
    backbone: Backbone,
    fields: dict[str, Any],
    *,
    dtype: torch.dtype,
    pad_token_id: int,
) -> None:
    """Write model, configuration and code into a folder.

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
    units = [1] if record.head_type == "linear" else [record.num_units, record.num_units // 2, 1]
    config = CriticConfig(
        backbone=inner,
        tensors=dict(record.tensors),
        likelihood=record.likelihood,
        units=units,
        num_members=record.num_members,
        num_direct=record.num_direct,
        pad_token_id=pad_token_id,
        dtype=dtype,
        **fields,
    )
    model = CriticForSequenceClassification(config).to(dtype)  # type: ignore[arg-type]
    decoder = find_decoder(model.backbone)
    decoder.load_state_dict(backbone.decoder.state_dict())
    if backbone.lm_head is not None:
        _copy_rows(backbone.lm_head, model.backbone.get_output_embeddings())
    for target, member in zip(model.heads, head.model.members, strict=True):
        assert isinstance(target, ValueHead)
        assert isinstance(member, HeadModel)
        _copy(member, target)
    model.save_pretrained(folder)
    shutil.copyfile(Path(__file__).parent / CODE_FILE, folder / CODE_FILE)
    content = read_json(folder / "config.json")
    content["auto_map"] = AUTO_MAP
    (folder / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


@torch.no_grad()
def _copy_rows(source: nn.Module, target: nn.Module) -> None:
    """Copy an output matrix into one that may have a row more, for padding."""
    parameters = dict(target.named_parameters())
    for name, value in source.named_parameters():
        parameters[name][: len(value)].copy_(value)


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
