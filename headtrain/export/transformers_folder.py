"""Writes a critic as a folder that transformers loads: model, tokenizer, template and card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from featurize.data.formats import Alpaca, Prompt
from featurize.data.prompt import TEMPLATE, TEMPLATE_WITH_INPUT
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.source import load_tokenizer
from featurize.settings import PromptSettings
from headtrain.export.head_folder import ExportError, new_folder, write_card
from headtrain.export.transformers_classes import (
    custom_model,
    deepest_block,
    native_model,
    save_model,
    why_not_native,
)
from headtrain.head.checkpoint import HeadRecord, TrainedHead
from headtrain.metrics.calibration import Calibration
from headtrain.scoring.provenance import FoundBackbone, Provenance

PADDING = "<|critic_pad|>"
"""Token that is added if a tokenizer has none for padding beside its end token."""
POOLER_FILE = "vllm_pooler_config.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, for the summary."""

    class_name: str
    why_custom: str | None
    """Why the class is not one of transformers; None if it is."""
    offset: float
    dtype: str
    pooler: dict[str, float] | None

    def describe(self) -> dict[str, Any]:
        """Describe the export by name."""
        rows: dict[str, Any] = {"class": self.class_name, "number format": self.dtype}
        if self.why_custom is None:
            rows["trust_remote_code"] = "not needed"
            rows["value of critic"] = f"logit + {self.offset:.6g} (ranks are the same)"
        else:
            rows["trust_remote_code"] = f"required: {self.why_custom}"
            rows["value of critic"] = "logit"
        if self.pooler is not None and self.why_custom is None:
            rows["vllm --pooler-config"] = json.dumps(self.pooler)
        return rows


def export_to_transformers(
    head: TrainedHead,
    found: FoundBackbone,
    out: Path,
    *,
    is_custom: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a head and its backbone into a new folder; it appears only when it is complete.

    `is_custom` asks for the custom class even where one of transformers would do.

    Raises:
        ExportError: the folder is in use or not of an export, or the backbone's family has no such
            class.
    """
    provenance = Provenance.of(head)
    if provenance.prompt != PromptSettings():
        raise ExportError(
            f"{head.path}: its prompts are not the plain template (`prompt`), which the"
            " exported class cannot render; use `critic serve`, or --to mlflow"
        )
    if head.record.layout is not None:
        raise ExportError(
            f"{head.path}: a {head.record.head_type} head reads segments of outputs, which the"
            " exported class does not compute; use `critic serve`, or --to mlflow"
        )
    why = "asked for" if is_custom else why_not_native(head.record, found.recipe.num_layers)
    with new_folder(out, overwrite=overwrite) as folder:
        exported = _write(folder, head, provenance, found, why)
        write_card(folder, head, exported.describe())
    return exported


def _write(
    folder: Path,
    head: TrainedHead,
    provenance: Provenance,
    found: FoundBackbone,
    why_custom: str | None,
) -> Exported:
    """Write model, tokenizer and vLLM's configuration."""
    record, dataset, dtype = head.record, provenance.dataset, found.recipe.compute_dtype
    backbone = _load_backbone(record, found, is_native=why_custom is None)
    tokenizer = load_tokenizer(found.source, found.settings)
    mark = response_mark(Alpaca(tokenizer))
    vocabulary = int(backbone.decoder.config.vocab_size)
    pad = _set_padding(tokenizer, backbone.decoder)
    tokenizer.model_max_length = dataset.max_length
    calibration = record.decision.calibration if record.decision else None
    about: dict[str, Any] = {
        "template": TEMPLATE,
        "template_with_input": TEMPLATE_WITH_INPUT,
        "max_tokens": dataset.max_length,
        "calibration": vars(calibration) if calibration else None,
    }
    offset = 0.0
    if why_custom is None:
        about["recipe_fingerprint"] = record.recipe_fingerprint
        model = native_model(head, backbone, about, dtype)
        offset = model.config.critic["offset"]
    else:
        about |= {"response_mark": mark, "vocabulary": vocabulary, "pad_token_id": pad}
        about["feature_dtype"] = provenance.featurize.storage_dtype
        model = custom_model(head, backbone, about, dtype)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    pooler = pooler_config(calibration, offset)
    if pooler is not None:
        (folder / POOLER_FILE).write_text(json.dumps(pooler, indent=2) + "\n")
    return Exported(
        class_name=type(model).__name__,
        why_custom=why_custom,
        offset=offset,
        dtype=str(dtype).removeprefix("torch."),
        pooler=pooler,
    )


def pooler_config(calibration: Calibration | None, offset: float) -> dict[str, float] | None:
    """Convert Platt scaling of values to that of logits, where value = logit + offset.

    The form is that of vLLM's PoolerConfig (vllm/config/pooler.py): probability =
    sigmoid((logit - mean) / sigma). None without a calibration, or with one of slope 0.
    """
    if calibration is None or calibration.slope == 0:
        return None
    mean = -(offset + calibration.intercept / calibration.slope)
    return {"logit_mean": mean, "logit_sigma": 1 / calibration.slope}


def _load_backbone(record: HeadRecord, found: FoundBackbone, *, is_native: bool) -> Backbone:
    """Load the blocks that the exported class needs: all of them for one of transformers."""
    blocks = found.recipe.num_layers
    if not is_native:
        blocks = deepest_block(record, blocks)
    backbone = load_backbone(
        found.source,
        found.settings,
        device=torch.device("cpu"),
        dtype=found.recipe.compute_dtype,
        deepest_layer=blocks,
        with_lm_head=record.likelihood and not is_native,
        is_plain=True,
    )
    config: Any = backbone.decoder.config
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:blocks]
    return backbone


def response_mark(template: Alpaca) -> list[int]:
    """Return the token ids that end every prompt, whatever its statement ends with."""
    ends = ("Add two numbers", "x.", "y\n", "z:\n\n")
    prompts = [list(template.read(Prompt(text)).ids) for text in ends]
    prompts.append(list(template.read(Prompt("Add.", "1 2")).ids))
    length = 0
    while len({tuple(ids[-length - 1 :]) for ids in prompts}) == 1:
        length += 1
    if not length:
        raise ExportError("prompts have no common end, so an output's start would not be known")
    return prompts[0][-length:]


def _set_padding(tokenizer: PreTrainedTokenizerBase, decoder: Any) -> int:
    """Give the tokenizer a padding token that is not its end token; return its id.

    NOTE: transformers looks for the last token that is no padding, so an output that ends with the
    end token would be read at another place if the two were one.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PADDING})
    tokenizer.padding_side = "right"
    pad = int(tokenizer.pad_token_id)
    if pad >= decoder.config.vocab_size:
        decoder.resize_token_embeddings(pad + 1, mean_resizing=False)
        with torch.no_grad():
            decoder.get_input_embeddings().weight[pad].zero_()
    decoder.config.pad_token_id = pad
    return pad
