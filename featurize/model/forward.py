"""Runs a batch through the backbone and pools hidden states as the layers produce them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featurize.model.attention import SHARED_PROMPT, UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch
from featurize.model.decoder import hidden_of
from featurize.model.likelihood import output_likelihood
from featurize.model.pooling import output_states, pool
from featurize.model.rope import reset_frequencies
from featurize.model.structure import check_attended
from featurize.settings import Pooling


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features to compute."""

    layers: tuple[int, ...]  # as transformers counts hidden states
    poolings: tuple[Pooling, ...]
    likelihood: bool

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors: `<pooling>.<layer>`."""
        return [f"{pooling}.{layer}" for layer in self.layers for pooling in self.poolings]

    def deepest(self, num_layers: int) -> int:
        """Return the deepest layer that has to run."""
        return num_layers if self.likelihood else max(self.layers)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of rows: distinct outputs of a prompt."""

    tensors: dict[str, Tensor]  # name -> float32 [rows, hidden]
    likelihood: Tensor | None  # float32 [rows, 4], in the order of LIKELIHOOD_COLUMNS


@torch.inference_mode()
def forward_batch(backbone: Backbone, batch: Batch, spec: FeatureSpec) -> Features:
    """Compute the features of a batch, a row per output, on the device of the backbone.

    Layers are those of transformers' `hidden_states`: 0 is the input of the first block, k the
    output of block k, and the last one the output of the decoder, after the final norm.

    Raises:
        UnsupportedAttention: a pack for a model whose outputs cannot share a prompt.
    """
    if batch.layout is not None and backbone.unshareable is not None:
        raise UnsupportedAttention(backbone.unshareable)
    if backbone.lengths.grows:
        reset_frequencies(backbone.decoder)
    pooled: dict[str, Tensor] = {}

    def take(layer: int, hidden: Tensor) -> None:
        states = output_states(hidden, batch)
        for pooling in spec.poolings:
            pooled[f"{pooling}.{layer}"] = pool(states, pooling)

    options: dict[str, Any] = {"layout": batch.layout} if batch.layout is not None else {}
    attention = backbone.plain_attention if batch.layout is None else SHARED_PROMPT
    if backbone.decoder.config._attn_implementation != attention:
        backbone.decoder.set_attn_implementation(attention)
    with _hooks(backbone, spec.layers, take):
        final = backbone.decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **options,
        ).last_hidden_state
    if batch.layout is not None:
        check_attended(backbone.decoder, backbone.blocks, batch.layout)
    likelihood = None
    if backbone.num_layers in spec.layers:
        take(backbone.num_layers, final)
    if spec.likelihood:
        likelihood = output_likelihood(final.flatten(0, 1), batch, backbone.logits)
    return Features(tensors=pooled, likelihood=likelihood)


@contextlib.contextmanager
def _hooks(
    backbone: Backbone, layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `take(layer, hidden)` for every layer below the last when it has run."""
    handles = []
    for layer in layers:
        if layer == 0:
            # Not the output of the embedding table: some models scale it before the first block.
            def before(
                _block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
            ) -> None:
                take(layer, args[0] if args else kwargs["hidden_states"])

            handles.append(backbone.blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        elif layer < backbone.num_layers:

            def after(_block: Any, _args: Any, output: Any, layer: int = layer) -> None:
                take(layer, hidden_of(output))

            handles.append(backbone.blocks[layer - 1].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
