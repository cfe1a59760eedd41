"""Opens the backbone of a head: its encoder, and an engine for what the head reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Prompt as Statement
from featurize.model import attention
from featurize.model.agreement import choose_forward
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.budget import choose_token_budget
from featurize.model.device import resolve_device
from featurize.model.engine import Engine, Forward
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup, group_samples
from featurize.model.source import load_tokenizer
from featurize.model.verdict import remembered_choice
from featurize.settings import BackboneSettings
from featurize.store.shards import is_of_segments
from headtrain.features.inputs import InputColumns
from headtrain.head.checkpoint import TrainedHead
from headtrain.scoring.provenance import FoundBackbone, Provenance

MIN_PROBE_LENGTH = 256
"""Tokens of the sequences on which the forwards are compared, if the model has no window."""


@dataclass(frozen=True, kw_only=True)
class OpenedBackbone:
    """What a critic needs besides its head."""

    encoder: SampleEncoder
    engine: Engine
    storage_dtype: torch.dtype
    """Of the features that the head was trained on."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the backbone knows: rows of its embeddings."""
        weight = self.engine.backbone.decoder.get_input_embeddings().weight
        return len(cast(torch.Tensor, weight))


def open_backbone(
    head: TrainedHead, places: Sequence[BackboneSettings], *, device: str, cache_dir: Path
) -> OpenedBackbone:
    """Load the backbone of a head from the first of `places` that has it.

    Raises:
        ValueError: none has it.
    """
    provenance, where = Provenance.of(head), resolve_device(device)
    found = provenance.find(where, cache_dir, places)
    spec = _narrow(found.recipe.spec, head.record.columns)
    encoder = SampleEncoder(
        provenance.prompt if spec.question else replace(provenance.prompt, question=None),
        load_tokenizer(found.source, found.settings),
        max_length=provenance.dataset.max_length,
        max_prompt_length=provenance.dataset.prompt_limit,
    )
    spec = replace(spec, answers=encoder.suffix.answers)
    attention.register()
    loaded = load_backbone(
        found.source,
        found.settings,
        device=where,
        dtype=found.recipe.compute_dtype,
        deepest_layer=spec.deepest(found.recipe.num_layers),
        with_lm_head=bool(spec.columns),
    )
    forward = provenance.featurize.forward
    if forward == "auto":
        forward = _choose(loaded, spec, encoder, found, where, cache_dir)
    size = sum(parameter.numel() for parameter in loaded.decoder.parameters())
    budget = choose_token_budget(
        provenance.featurize.token_budget, where, size, provenance.dataset.max_length
    )
    return OpenedBackbone(
        encoder=encoder,
        engine=Engine(loaded, spec, forward, budget.tokens),
        storage_dtype=found.recipe.storage_dtype,
    )


def _narrow(spec: FeatureSpec, columns: InputColumns) -> FeatureSpec:
    """Reduce a recipe to what a head reads: layers above its deepest one need not run."""
    wanted = [name.rpartition(".") for name in columns.tensors]  # pooling, ".", layer
    return FeatureSpec(
        layers=tuple(layer for layer in spec.layers if str(layer) in {name[2] for name in wanted}),
        poolings=tuple(p for p in spec.poolings if p in {name[0] for name in wanted}),
        likelihood=columns.likelihood,
        segments=spec.segments if any(map(is_of_segments, columns.tensors)) else None,
        question="question" in {name[0] for name in wanted},
    )


def _choose(
    backbone: Backbone,
    spec: FeatureSpec,
    encoder: SampleEncoder,
    found: FoundBackbone,
    device: torch.device,
    cache_dir: Path,
) -> Forward:
    """Choose the forward, as an earlier comparison on this device did or by a new one."""
    dtype = found.recipe.compute_dtype
    window = getattr(backbone.decoder.config, "sliding_window", None) or 0
    return remembered_choice(
        cache_dir / "forwards",
        lambda: choose_forward(backbone, spec, _probe(encoder, window), dtype),
        backbone=found.source.digest,
        spec=spec,
        device=device,
        dtype=dtype,
    ).forward


def _probe(encoder: SampleEncoder, window: int) -> list[PromptGroup]:
    """Make up texts that are longer than a sliding window of `window` tokens."""
    num_lines = max(MIN_PROBE_LENGTH, window + 64)  # at least a token per line
    groups: list[PromptGroup] = []
    for number, prompt in enumerate(("Add two numbers.", "Read a list; print its largest item.")):
        texts = ["print(a + b)", "".join(f"x = {line}\n" for line in range(num_lines >> number))]
        found = encoder.encode(Statement(prompt), texts)
        pairs = ((found.prompt.ids, output.ids) for output in found.outputs)
        suffix = encoder.suffix
        groups += group_samples(pairs, end=suffix.end, question=suffix.question).groups
    return groups
